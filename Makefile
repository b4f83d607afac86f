# Copyright The Cocoon Authors.
# SPDX-License-Identifier: Apache-2.0
#
# `make demo` and `make test` do all their own set-up. Run as root.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-builtin-rules

OUT ?= out
# Downloads outlive `make clean`: the kernel package is 30 MB.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cocoon
GO ?= go
export GOTOOLCHAIN := local
export GOFLAGS := -buildvcs=false

TAGS := netgo,osusergo,seccomp,runc_nocriu
# One fully static binary: cgo for libcontainer's namespace code and libseccomp.
# No build id and no paths, so that the same sources give the same bytes.
GUEST_BUILD := CGO_ENABLED=1 $(GO) build -trimpath -tags $(TAGS) \
  -ldflags '-s -w -buildid= -linkmode external -extldflags "-static -Wl,--build-id=none"'
TOOL_BUILD := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -buildid='
HOST_TOOLS := mkimage measurements trustee agent/agentctl

.PHONY: build binary tools deps lock test race lint fuzz vm demo image measure repro bench fresh generate check clean help

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t12

build: binary tools ## the guest binary and the host tools, in out/bin

binary:
	@mkdir -p $(OUT)/bin
	$(GUEST_BUILD) -o $(OUT)/bin/cocoon .
	$(TOOL_BUILD) -o $(OUT)/bin/first ./rootfs/first

tools:
	@mkdir -p $(OUT)/bin
	for t in $(HOST_TOOLS); do $(TOOL_BUILD) -o $(OUT)/bin/$${t##*/} ./$$t; done

# Which lines of the list `deps` takes; bench and fresh add their own.
GROUPS := base
bench: GROUPS += bench
fresh: GROUPS += fresh

deps: ## install the Debian packages of test/packages.txt that are missing
	@want=$$(for g in $(GROUPS); do sed -n "s/#.*//; s/^$$g://p" test/packages.txt; done); missing=; \
	for p in $$want; do dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing:$$missing"; export DEBIAN_FRONTEND=noninteractive; \
	  for try in 1 2; do \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; } && break; \
	    [ $$try = 1 ] && { echo 'once more'; apt-get -f install -y -qq >/dev/null || true; } || exit 1; done; fi

# Which kernel package is used is written down in the lock; one that has left the archive is replaced.
LOCK := $(CACHE)/kernel.lock.json
lock: deps tools
	@mkdir -p $(CACHE)
	$(OUT)/bin/mkimage lock --cache $(CACHE) --lock $(LOCK) --renew-gone

PROFILE ?= dev
image: lock build ## the guest image of PROFILE (dev), in out/image/PROFILE
	$(OUT)/bin/mkimage build --profile $(PROFILE) --cache $(CACHE) --lock $(LOCK) --binary $(OUT)/bin/cocoon --first $(OUT)/bin/first --out $(OUT)/image/$(PROFILE)

test: deps race vm ## everything: unit, race and root tests, then the boot of a guest in QEMU

race: deps
	CGO_ENABLED=1 $(GO) test -race -tags $(TAGS) -timeout 15m ./...

vm: lock ## boot guests in QEMU and look at them from inside
	COCOON_KERNEL_LOCK=$(abspath $(LOCK)) $(GO) test -tags $(TAGS) -count=1 -timeout 15m ./test/vm/...

lint: deps ## vet and golangci-lint with the bans of .golangci.yml
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	$(GO) vet -tags $(TAGS) ./...
	$(GO) tool -modfile=tools/lint/go.mod golangci-lint run ./...

FUZZTIME ?= 10s
fuzz: deps ## every fuzz target for FUZZTIME (10s)
	CGO_ENABLED=1 $(GO) run ./test/fuzz -fuzztime $(FUZZTIME) -tags $(TAGS)

demo: image ## the whole story in one run: attest, pull an encrypted image, run it
	$(TOOL_BUILD) -o $(OUT)/bin/demo ./test/demo
	$(OUT)/bin/demo --bin $(OUT)/bin --image $(OUT)/image/dev

measure: image ## print what was built, with digests
	$(OUT)/bin/mkimage inspect $(OUT)/image/dev

repro: deps ## build twice in two directories and compare every byte
	$(TOOL_BUILD) -o $(OUT)/bin/repro ./test/repro
	$(OUT)/bin/repro --cache $(CACHE)

bench: image ## speed and size beside the peers, as a table and as JSON
	$(TOOL_BUILD) -o $(OUT)/bin/bench ./test/bench
	for p in snp podvm; do $(OUT)/bin/mkimage lock --profile $$p --cache $(CACHE) --lock $(LOCK) --renew-gone; done
	$(OUT)/bin/bench --bin $(OUT)/bin --image $(OUT)/image/dev --lock $(LOCK) --json $(OUT)/bench.json

fresh: deps ## both README commands in a new Debian root that holds only Go, git and make
	$(TOOL_BUILD) -o $(OUT)/bin/fresh ./test/fresh
	$(OUT)/bin/fresh

generate: ## internal/wire from its .proto files
	mkdir -p $(OUT)/bin
	cd tools/proto && $(GO) build -o $(abspath $(OUT)/bin)/ github.com/bufbuild/buf/cmd/buf google.golang.org/protobuf/cmd/protoc-gen-go github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc google.golang.org/grpc/cmd/protoc-gen-go-grpc
	cd internal/wire && PATH=$(abspath $(OUT)/bin):$$PATH buf generate && PATH=$(abspath $(OUT)/bin):$$PATH buf generate --template buf.gen.grpc.yaml

check: lint race ## what to run before a commit

clean: ## remove what was built
	rm -rf $(OUT)
