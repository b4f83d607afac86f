// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "cocoon"

// guestParts are the packages that know nothing of each other: main joins
// them through interfaces that each declares for itself.
var guestParts = []string{"agent", "attest", "cdh", "imagers"}

// hostTools run on a builder's or operator's machine and are no part of the
// guest's trusted computing base.
var hostTools = []string{"mkimage", "measurements", "trustee", "agent/agentctl", "rootfs/recipe", "test"}

// allowed names, for each folder, the third-party modules that its packages
// may import. The longest matching folder counts. Adding a line is a decision
// about the trusted computing base: name the cost in the commit.
var allowed = map[string][]string{
	".": {
		"github.com/opencontainers/runc", "github.com/opencontainers/cgroups", "github.com/mdlayher/vsock", "golang.org/x/sys",
		"golang.org/x/sync", "github.com/containerd/ttrpc", "google.golang.org/protobuf",
	},
	"agent": {
		"github.com/containerd/ttrpc", "google.golang.org/protobuf", "google.golang.org/grpc",
		"github.com/opencontainers/runtime-spec", "golang.org/x/sys", "golang.org/x/sync", "github.com/vishvananda/netlink",
		"tags.cncf.io/container-device-interface",
	},
	"agent/policy": {
		"github.com/open-policy-agent/opa", "github.com/evanphx/json-patch", "github.com/containerd/ttrpc",
		"google.golang.org/protobuf", "google.golang.org/grpc", "golang.org/x/sys", "golang.org/x/time",
	},
	"agent/runtime": {
		"github.com/opencontainers/runc", "github.com/opencontainers/cgroups", "github.com/opencontainers/runtime-spec",
		"google.golang.org/protobuf", "golang.org/x/sys", "golang.org/x/sync", "github.com/moby/sys", "github.com/opencontainers/selinux",
	},
	"agent/podvm": {
		"github.com/containerd/ttrpc", "google.golang.org/protobuf", "google.golang.org/grpc", "github.com/vishvananda/netlink",
		"golang.org/x/sys", "gopkg.in/yaml.v3", "github.com/BurntSushi/toml",
	},
	"agent/agentctl": {
		"github.com/containerd/ttrpc", "google.golang.org/protobuf", "google.golang.org/grpc", "github.com/spf13/cobra",
		"github.com/mdlayher/vsock", "golang.org/x/sys", "golang.org/x/term", "github.com/opencontainers/runtime-spec",
	},
	"attest": {
		"github.com/containerd/ttrpc", "google.golang.org/protobuf", "google.golang.org/grpc", "github.com/BurntSushi/toml",
		"github.com/go-jose/go-jose", "github.com/gowebpki/jcs", "golang.org/x/sys", "golang.org/x/sync", "golang.org/x/net",
	},
	"attest/tee/tpm": {"github.com/google/go-tpm", "golang.org/x/sys"},
	"cdh": {
		"github.com/containerd/ttrpc", "google.golang.org/protobuf", "google.golang.org/grpc", "github.com/go-jose/go-jose",
		"github.com/BurntSushi/toml", "golang.org/x/sys", "golang.org/x/sync",
	},
	"imagers": {
		"github.com/google/go-containerregistry", "github.com/klauspost/compress", "github.com/containers/ocicrypt",
		"github.com/opencontainers/go-digest", "github.com/opencontainers/image-spec", "github.com/opencontainers/runtime-spec",
		"golang.org/x/sys", "golang.org/x/sync", "golang.org/x/net",
	},
	"internal":          {"golang.org/x/sys"},
	"internal/klog":     {"golang.org/x/sys", "golang.org/x/time"},
	"internal/wire":     {"google.golang.org/protobuf", "github.com/containerd/ttrpc"},
	"internal/config":   {"github.com/BurntSushi/toml"},
	"internal/initdata": {"github.com/BurntSushi/toml", "github.com/klauspost/compress"},
	"rootfs/boot": {
		"github.com/u-root/u-root", "golang.org/x/sys", "github.com/vishvananda/netlink", "github.com/insomniacslk/dhcp",
	},
}

type goPackage struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Standard     bool
}

// folder is the package's path below the module, "." for the main package.
func (p goPackage) folder() string { return folderOf(p.ImportPath) }

func folderOf(path string) string {
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

func within(folder, parent string) bool {
	return folder == parent || strings.HasPrefix(folder, parent+"/")
}

func goList(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-tags", "netgo,osusergo,seccomp,runc_nocriu", "-json=ImportPath,Imports,TestImports,XTestImports,Standard"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var ps []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatalf("decode the output of go list: %v", err)
		}
		ps = append(ps, p)
	}
}

func TestTheGuestPartsDoNotKnowEachOther(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "./...") {
		from := part(p.folder())
		for _, imp := range p.Imports {
			if !ours(imp) {
				continue
			}
			if to := part(folderOf(imp)); from != "" && to != "" && from != to {
				t.Errorf("%s imports %s: declare the interface it needs and let main pass the value", p.ImportPath, imp)
			}
			if within(p.folder(), "internal") && !within(folderOf(imp), "internal") {
				t.Errorf("%s imports %s: a shared leaf imports nothing of the parts", p.ImportPath, imp)
			}
		}
	}
}

// part returns the guest part that a folder belongs to, or "".
func part(folder string) string {
	if within(folder, "agent/agentctl") {
		return ""
	}
	i := slices.IndexFunc(guestParts, func(g string) bool { return within(folder, g) })
	if i < 0 {
		return ""
	}
	return guestParts[i]
}

func TestNoHostToolIsLinkedIntoTheGuest(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "-deps", ".") {
		for _, tool := range hostTools {
			if ours(p.ImportPath) && within(p.folder(), tool) {
				t.Errorf("the guest binary links %s", p.ImportPath)
			}
		}
	}
}

func TestGuestPackagesUseOnlyTheModulesOnTheirList(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "-deps", ".") {
		if !ours(p.ImportPath) {
			continue
		}
		list := allowedFor(p.folder())
		for _, imp := range p.Imports {
			if ours(imp) || !strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") {
				continue
			}
			if !slices.ContainsFunc(list, func(m string) bool { return within(imp, m) }) {
				t.Errorf("%s imports %s, which is not on its list in imports_test.go", p.ImportPath, imp)
			}
		}
	}
}

func allowedFor(folder string) []string {
	best := ""
	for f := range allowed {
		if within(folder, f) && len(f) > len(best) {
			best = f
		}
	}
	if best == "" {
		best = "."
	}
	return allowed[best]
}
