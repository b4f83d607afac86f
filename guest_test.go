// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/attest"
	"cocoon/internal/config"
)

func TestBothConfigurationsMeanOneKeyBroker(t *testing.T) {
	t.Parallel()
	kbs := func(url, cert string) attest.Config {
		return attest.Config{Tokens: attest.Tokens{KBS: &attest.KBS{URL: url, Cert: cert}}}
	}
	remote := config.KBC{Name: config.KBCRemote, URL: "https://kbs.example.com", Cert: "cdh's"}
	for name, tc := range map[string]struct {
		aa    attest.Config
		kbc   config.KBC
		want  *attest.KBS
		fails bool
	}{
		"only cdh.toml":                   {attest.Config{}, remote, &attest.KBS{URL: remote.URL, Cert: "cdh's"}, false},
		"the same, but for a slash":       {kbs("https://kbs.example.com/", "aa's"), remote, &attest.KBS{URL: "https://kbs.example.com/", Cert: "aa's"}, false},
		"the certificate from cdh.toml":   {kbs("https://kbs.example.com", ""), remote, &attest.KBS{URL: "https://kbs.example.com", Cert: "cdh's"}, false},
		"two brokers":                     {kbs("https://other.example.com", ""), remote, nil, true},
		"offline resources, no broker":    {attest.Config{}, config.KBC{Name: config.KBCOffline}, nil, false},
		"offline resources beside tokens": {kbs("https://a.example.com", "x"), config.KBC{Name: config.KBCOffline}, &attest.KBS{URL: "https://a.example.com", Cert: "x"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := joinBrokers(&tc.aa, tc.kbc)
			if (err != nil) != tc.fails {
				t.Fatalf("error %v", err)
			}
			if got := tc.aa.Tokens.KBS; !tc.fails && (got == nil) != (tc.want == nil) || !tc.fails && got != nil && *got != *tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestTheLogHasTheFormOfThePeers(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug - 4, ReplaceAttr: kataAttr}))
	for level, want := range map[slog.Level]string{
		slog.LevelDebug - 4: "TRCE", slog.LevelDebug: "DEBG", slog.LevelInfo: "INFO", slog.LevelWarn: "WARN", slog.LevelError: "ERRO",
	} {
		out.Reset()
		log.Log(t.Context(), level, "x", slog.Group("g", "level", "kept"))
		var line struct {
			TS, Level, Msg string
			G              struct{ Level string }
		}
		if err := json.Unmarshal(out.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.Level != want || line.Msg != "x" || !strings.HasSuffix(line.TS, "Z") || line.G.Level != "kept" {
			t.Errorf("level %v gives %s", level, &out)
		}
	}
}

func TestTheOwnersLogIsForRootAndHasALimit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a", "owner.jsonl")
	o, err := openOwnerLog(path)
	if err != nil {
		t.Fatal(err)
	}
	o.left = 10
	if _, err := o.Write([]byte("12345678\n")); err != nil {
		t.Fatal(err)
	}
	if n, err := o.Write([]byte("more")); n != 0 || !errors.Is(err, errOwnerLogFull) {
		t.Errorf("a line over the limit: %d, %v", n, err)
	}
	if n, err := o.Write([]byte("x")); n != 0 || !errors.Is(err, errOwnerLogFull) {
		t.Errorf("a line after that, which would fit: %d, %v; a gap must not be hidden", n, err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 || st.Size() != 9 {
		t.Errorf("file %v, %v", st, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("elsewhere", path); err != nil {
		t.Fatal(err)
	}
	if _, err := openOwnerLog(path); err == nil {
		t.Error("a link in the log's place was followed")
	}
}

func TestMemoryIsReadFromTheStatusFile(t *testing.T) {
	t.Parallel()
	rss, anon, err := memory("/proc/self/status")
	if err != nil || rss <= 0 || anon <= 0 || anon > rss {
		t.Errorf("own memory: %d, %d, %v", rss, anon, err)
	}
	bad := filepath.Join(t.TempDir(), "status")
	if err := os.WriteFile(bad, []byte("VmRSS:\tx kB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := memory(bad); err == nil {
		t.Error("a number that is none was accepted")
	}
	if _, _, err := memory(bad + "absent"); err == nil {
		t.Error("an absent file was accepted")
	}
}

func TestAnInputThatIsTooLargeOrAbsentIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := readInput(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, maxInput+1); err != nil {
		t.Fatal(err)
	}
	if _, err := readInput(big); err == nil || !strings.Contains(err.Error(), "larger than allowed") {
		t.Errorf("large file: %v", err)
	}
	small := filepath.Join(dir, "small")
	if err := os.WriteFile(small, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := readInput(small)
	if err != nil || string(f.Data) != "x" || string(f.From) != small {
		t.Errorf("got %+v, %v", f, err)
	}
}

func TestAgentSocketsReplaceOnlySockets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sock := config.Address{Network: "unix", Address: filepath.Join(dir, "d", "s")}
	for range 2 { // the second finds the stale socket of the first
		l, err := listenAgent(t.Context(), sock)
		if err != nil {
			t.Fatal(err)
		}
		l.(interface{ SetUnlinkOnClose(bool) }).SetUnlinkOnClose(false)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenAgent(t.Context(), config.Address{Network: "unix", Address: file}); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
		t.Errorf("the file became %q, %v", b, err)
	}
}

func TestAPolicyFileOfTheImageCountsLessThanTheOwners(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "policy.rego")
	if err := os.WriteFile(file, []byte("package agent_policy"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		has  *config.File
		want config.Source
	}{
		"no other policy":      {nil, config.Source(file)},
		"the image's default":  {&config.File{From: defaultPolicyPath}, config.Source(file)},
		"the owner's initdata": {&config.File{From: "initdata"}, "initdata"},
	} {
		g := &guest{cfg: &config.Config{Agent: config.Agent{PolicyFile: file}}}
		g.inputs.policy = tc.has
		if err := g.readPolicyFile(); err != nil || g.inputs.policy.From != tc.want {
			t.Errorf("%s: %+v (%v), want %q", name, g.inputs.policy, err, tc.want)
		}
	}
	g := &guest{cfg: &config.Config{Agent: config.Agent{PolicyFile: file + ".absent"}}}
	if err := g.readPolicyFile(); !errors.Is(err, os.ErrNotExist) || g.inputs.policy != nil {
		t.Errorf("a file that is missing: %+v (%v)", g.inputs.policy, err)
	}
}

func TestComponentsThatAreNotAskedForHaveNoDoor(t *testing.T) {
	t.Parallel()
	for procs, want := range map[config.Components][3]bool{
		config.NoComponents: {}, config.AttestationAgent: {true}, config.ConfidentialDataHub: {true, true}, config.APIServerREST: {true, true, true},
	} {
		dir, err := os.MkdirTemp("", "c") //nolint:usetesting // the path of a socket is short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		cfg, err := config.Load(config.Inputs{})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Agent.Components = procs
		g := &guest{cfg: cfg, opt: options{root: dir, rest: "127.0.0.1:0", listen: "unix://" + dir + "/agent"}}
		d, err := g.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := [3]bool{d.aa != nil, d.cdh != nil, d.rest != nil}; got != want || d.agent == nil || d.log != nil || d.console != nil {
			t.Errorf("%v: %v, want %v", procs, got, want)
		}
		if err := d.close(); err != nil {
			t.Error(err)
		}
		g.profile.podVM = true
		if !g.offers(config.APIServerREST) {
			t.Errorf("%v: a pod VM offers less", procs)
		}
	}
}

func TestOnlyTheDevelopmentProfileHasAConsole(t *testing.T) {
	t.Parallel()
	for _, p := range profiles() {
		if p.console != (p.name == "dev") {
			t.Errorf("profile %q: %v", p.name, p.console)
		}
	}
}
