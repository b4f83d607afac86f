// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tool

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/attest"
	"cocoon/attest/eventlog"
	"cocoon/attest/tee/sample"
)

// served returns the socket of an agent of the sample TEE.
func served(t *testing.T) string {
	t.Helper()
	a, err := attest.New(attest.Config{}, attest.Deps{Attester: sample.New()})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "aa.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "unix://" + path
}

func runTool(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Main(t.Context(), args, Streams{&o, &e})
	return code, o.String(), e.String()
}

func TestAnOwnerSeesTEEAndEvidence(t *testing.T) {
	t.Parallel()
	socket := served(t)
	if code, out, errs := runTool(t, "tee", "-socket", socket); code != 0 || out != "sample\n" {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if code, out, errs := runTool(t, "evidence", "-socket", socket, "-report-data", "0102"); code != 0 || out != `{"svn":"1","report_data":"AQI="}`+"\n" {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if code, out, errs := runTool(t, "token", "-socket", socket); code != 1 || out != "" || !strings.Contains(errs, "kbs token config not configured") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

func TestAnOwnerSeesWhatWasMeasured(t *testing.T) {
	t.Parallel()
	entry := eventlog.Entry{Domain: "d.example", Operation: "Pull", Content: "x y"}.Event(4, eventlog.SHA384)
	for name, b := range map[string][]byte{"the agent's": entry.Append(nil), "a whole log": entry.Append(eventlog.Header())} {
		file := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errs := runTool(t, "eventlog", file)
		if code != 0 || !strings.Contains(out, `"d.example" "Pull" "x y"`) || !strings.Contains(out, "register 4  SHA-384") {
			t.Errorf("%s: exit %d: %s%s", name, code, out, errs)
		}
	}
}

func TestWhatTheToolCannotDoIsSaid(t *testing.T) {
	t.Parallel()
	rubbish := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(rubbish, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"nothing":      {nil, 2, "which command?"},
		"unknown":      {[]string{"explode"}, 2, `no command "explode"`},
		"a flag":       {[]string{"tee", "-x"}, 2, "not defined"},
		"an argument":  {[]string{"tee", "x"}, 2, `unexpected argument "x"`},
		"no hex":       {[]string{"evidence", "-report-data", "x"}, 2, "report data"},
		"no socket":    {[]string{"tee", "-socket", "tcp://x"}, 2, "does not begin with unix://"},
		"nobody there": {[]string{"tee", "-socket", "unix:///absent"}, 1, "connect to the attestation agent"},
		"no log":       {[]string{"eventlog", "/absent"}, 1, "no such file"},
		"rubbish":      {[]string{"eventlog", rubbish}, 1, "invalid event log"},
	} {
		if code, out, errs := runTool(t, tc.args...); code != tc.code || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: exit %d: %s%s", name, code, out, errs)
		}
	}
}
