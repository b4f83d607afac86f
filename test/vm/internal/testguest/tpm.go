// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee"
	"cocoon/attest/tee/tpm"
	"cocoon/attest/tee/tpm/tpmtest"
	"cocoon/trustee/as"
	verifytpm "cocoon/trustee/verify/tpm"
)

const tpmTimeout = time.Minute

// attestByTPM makes evidence with the TPM that the kernel offers, and has it
// verified.
func attestByTPM() error {
	ctx, cancel := context.WithTimeout(context.Background(), tpmTimeout)
	defer cancel()
	kind, err := tee.Detect(tee.Platform{Root: "/", Arch: runtime.GOARCH, HCLType: func() (uint32, error) { return tee.HCLType(ctx) }})
	if err != nil {
		return err
	}
	if kind != tee.TPM {
		return fmt.Errorf("detected %q", kind)
	}
	if err := makeKey(ctx); err != nil {
		return err
	}
	dir := "/run/tpm"
	log := filepath.Join(dir, eventlog.File)
	a := tpm.NewAttester(tpm.New(tpm.Device(tpm.Devices()...)), tpm.AK, log)
	document := sha256.Sum256([]byte("document"))
	for range 2 {
		if err := a.BindInitData(ctx, document[:]); err != nil {
			return err
		}
	}
	if err := measure(ctx, a, dir); err != nil {
		return err
	}
	session := sha256.Sum256([]byte("session"))
	evidence, err := a.Evidence(ctx, session[:])
	if err != nil {
		return err
	}
	return verify(ctx, dir, evidence, as.Binding{ReportData: session[:], InitData: document[:]})
}

func makeKey(ctx context.Context) (err error) {
	device, err := tpm.Device(tpm.Devices()...)(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	_, err = tpmtest.Keep(transport.FromReadWriter(device), tpm.AK, tpmtest.AK())
	return err
}

func measure(ctx context.Context, a *tpm.Attester, dir string) error {
	regs, err := a.Registers()
	if err != nil {
		return err
	}
	j, err := eventlog.Open(ctx, dir, regs)
	if err != nil {
		return err
	}
	err = j.Measure(ctx, a.MapPCR(17), eventlog.Entry{Domain: "cocoon.test", Operation: "Run", Content: "image"})
	return errors.Join(err, j.Close())
}

func verify(ctx context.Context, dir string, evidence json.RawMessage, b as.Binding) error {
	var e tpm.Evidence
	if err := json.Unmarshal(evidence, &e); err != nil {
		return err
	}
	for i, v := range e.Quote.PCRs {
		fmt.Printf("PCR %d %s\n", i, v)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: e.AKPublic})
	if err := os.WriteFile(filepath.Join(dir, "ak.pub"), key, 0o600); err != nil {
		return err
	}
	v, err := verifytpm.New(dir)
	if err != nil {
		return err
	}
	c, err := v.Verify(ctx, evidence, b)
	if err != nil {
		return err
	}
	if log, _ := c.Values["uefi_event_logs"].([]any); len(log) != 1 {
		return fmt.Errorf("the event log has %d entries", len(log))
	}
	return nil
}
