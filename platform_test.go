// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"cocoon/attest/tee/sample"
	"cocoon/internal/initdata"
)

const ownersDocument = `version = "0.1.0"
algorithm = "sha384"
[data]
"policy.rego" = "package agent_policy"
"aa.toml" = ""
`

// initdataDisks makes a folder with one disk that carries text.
func initdataDisks(t *testing.T, text string) initdata.Disks {
	t.Helper()
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	disk := binary.LittleEndian.AppendUint64([]byte("initdata"), uint64(gz.Len()))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vda"), append(disk, gz.Bytes()...), 0o600); err != nil {
		t.Fatal(err)
	}
	return initdata.Disks{Dir: dir, AnyFile: true}
}

// launched is a TEE whose host declared an initdata digest.
type launched struct {
	sample.Attester
	register []byte
}

func (l launched) InitDataRegister(context.Context) ([]byte, error) { return l.register, nil }

func TestTheOwnersDocumentComesFromADisk(t *testing.T) {
	t.Parallel()
	g := &guest{log: slog.New(slog.DiscardHandler), opt: options{root: t.TempDir(), tee: "sample"}}
	if err := g.readDisk(initdataDisks(t, ownersDocument)); err != nil {
		t.Fatal(err)
	}
	p := g.inputs.policy
	if p == nil || p.From != "initdata" || string(p.Data) != "package agent_policy" || g.inputs.aa == nil || g.inputs.cdh != nil {
		t.Errorf("inputs %+v", g.inputs)
	}
	if err := g.bindInitdata(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(g.path(initdataDir + "/initdata.toml"))
	if err != nil || string(b) != ownersDocument {
		t.Errorf("%q (%v)", b, err)
	}
}

func TestAnImageForTEEsDoesNotStartWithoutOne(t *testing.T) {
	t.Parallel()
	for _, p := range profiles() {
		g := &guest{log: slog.New(slog.DiscardHandler), opt: options{root: t.TempDir()}, profile: p}
		err := g.bindInitdata(t.Context())
		if want := p.name == "kata" || p.name == "podvm"; errors.Is(err, errNoTEE) != want || (err == nil) == want {
			t.Errorf("%s: %v", p.name, err)
		}
	}
}

func TestADocumentThatTheTEEDoesNotConfirmStopsTheStart(t *testing.T) {
	t.Parallel()
	g := &guest{log: slog.New(slog.DiscardHandler), opt: options{root: t.TempDir()}}
	if err := g.readDisk(initdataDisks(t, ownersDocument)); err != nil {
		t.Fatal(err)
	}
	digest := g.inputs.initdata.Digest()
	g.tee = launched{register: initdata.Fit(digest, 32)}
	if err := g.confirm(t.Context(), "snp"); err != nil {
		t.Errorf("the right one: %v", err)
	}
	g.tee = launched{register: make([]byte, 32)}
	if err := g.confirm(t.Context(), "sample"); !errors.Is(err, initdata.ErrMismatch) {
		t.Errorf("none was declared: %v", err)
	}
	g.tee = sample.New()
	if err := g.confirm(t.Context(), "snp"); err == nil {
		t.Error("a real TEE without a place for the digest was accepted")
	}
	g.inputs.initdata, g.tee = nil, launched{register: digest}
	if err := g.confirm(t.Context(), "tdx"); !errors.Is(err, initdata.ErrWithheld) {
		t.Errorf("the document is kept back: %v", err)
	}
	if _, err := os.Stat(g.path(initdataDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("files of an unconfirmed document: %v", err)
	}
}

func TestWithoutADiskThereIsNoInitdata(t *testing.T) {
	t.Parallel()
	g := &guest{log: slog.New(slog.DiscardHandler)}
	if err := g.readDisk(initdata.Disks{Dir: t.TempDir()}); err != nil || g.inputs.initdata != nil {
		t.Errorf("%v, %v", g.inputs.initdata, err)
	}
	if err := g.readDisk(initdataDisks(t, "version = 1")); !errors.Is(err, initdata.ErrFormat) {
		t.Errorf("a broken document: %v", err)
	}
}
