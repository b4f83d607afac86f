// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoon/internal/bounded"
	"cocoon/internal/initdata"
	"cocoon/internal/sharedtest"
	"cocoon/internal/stage"
)

const emptyDigest = "adb48cc14fea9403d3d51f3b5f5068fd4d80445a14e94f1b3d5dbabaad66478d"

// userData writes files as the adaptor does.
func userData(files ...string) []byte {
	var b strings.Builder
	b.WriteString("#cloud-config\n\nwrite_files:\n")
	for i := 0; i+1 < len(files); i += 2 {
		b.WriteString("  - path: " + files[i] + "\n")
		if files[i+1] == "" {
			continue
		}
		b.WriteString("    content: |\n")
		for line := range strings.SplitSeq(files[i+1], "\n") {
			b.WriteString("      " + line + "\n")
		}
	}
	return []byte(b.String())
}

func packed(t testing.TB, doc string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, doc); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

const header = "version = '0.1.0'\nalgorithm = 'sha384'\n[data]\n"

func TestEveryFileFindsItsPlace(t *testing.T) {
	t.Parallel()
	doc := header + "'aa.toml' = 'aa'\n'./cdh.toml' = 'cdh'\n'policy.rego' = 'policy'\n'other' = 'x'\n"
	p, err := Parse(userData("/run/peerpod/apf.json", "{}", "/run/peerpod/auth.json", `{"auths":{}}`, "/run/peerpod/cdh.toml", "host's",
		"/run/peerpod/initdata", packed(t, doc), "/run/peerpod/scratch-space.marker", "", "/etc/passwd", "root::0:0",
		"/run/peerpod/../peerpod/aa.toml", "x", "/run/peerpod/policy.rego", "host's", "run/peerpod/apf.json", "x"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if string(p.AA) != "aa" || string(p.CDH) != "cdh" || string(p.Policy) != "policy" || string(p.APF) != "{}\n" || string(p.Auth) != "{\"auths\":{}}\n" {
		t.Errorf("got %q %q %q %q %q", p.AA, p.CDH, p.Policy, p.APF, p.Auth)
	}
	if !p.Scratch || !p.HasInitdata || string(p.Initdata.Raw) != doc || !bytes.Equal(p.Digest, p.Initdata.Digest()) || len(p.Digest) != 48 {
		t.Errorf("got %+v", p)
	}
	if want := []string{"/etc/passwd", "/run/peerpod/../peerpod/aa.toml", "/run/peerpod/policy.rego", "run/peerpod/apf.json"}; !slices.Equal(p.Skipped, want) {
		t.Errorf("skipped %q", p.Skipped)
	}
}

func TestAGuestWithoutInitdataHasTheWellKnownDigest(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", "# only a comment\n", "---\n", "write_files:\n", "write_files: []\n", "null\n"} {
		p, err := Parse([]byte(data), Options{})
		if err != nil {
			t.Errorf("%q: %v", data, err)
			continue
		}
		if hex.EncodeToString(p.Digest) != emptyDigest || p.HasInitdata || p.AA != nil || p.Policy != nil {
			t.Errorf("%q: got %+v", data, p)
		}
	}
}

func TestTheRecordedUserDataIsRead(t *testing.T) {
	t.Parallel()
	p, err := Parse(sharedtest.Read(t, "recordings/user-data.yaml"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !p.HasInitdata || len(p.Skipped) != 0 || p.APF == nil {
		t.Fatalf("got %+v", p)
	}
	a, err := ParseAPF(p.APF)
	if err != nil {
		t.Fatal(err)
	}
	n := a.PodNetwork
	if n.PodIP.String() != "10.245.0.3/24" || n.WorkerIP.String() != "10.99.0.1" || n.VXLANID != 555002 || len(n.Routes) != 2 ||
		n.Routes[0].Dst.String() != "0.0.0.0/0" || n.Routes[1].Gateway.IsValid() || a.PodName != "pod-cri" {
		t.Fatalf("got %+v", n)
	}
}

func TestUnmeasuredConfigurationNeedsConsent(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"aa.toml", "cdh.toml"} {
		for _, data := range [][]byte{
			userData("/run/peerpod/"+name, "x"),
			userData("/run/peerpod/"+name, ""),
			userData("/run/peerpod/"+name, "x", "/run/peerpod/initdata", packed(t, header+"'policy.rego' = 'p'\n")),
		} {
			if _, err := Parse(data, Options{}); !errors.Is(err, ErrUnmeasured) || stage.Of(err) != stage.UserData {
				t.Errorf("%s: got %v", name, err)
			}
			if _, err := Parse(data, Options{Unmeasured: true}); err != nil {
				t.Errorf("%s with consent: %v", name, err)
			}
		}
	}
	p, err := Parse(userData("/run/peerpod/aa.toml", "host's"), Options{Unmeasured: true})
	if err != nil || string(p.AA) != "host's\n" {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestBadUserDataIsRefused(t *testing.T) {
	t.Parallel()
	one := "write_files:\n- path: /run/peerpod/auth.json\n"
	for name, data := range map[string]string{
		"not YAML":         "write_files: [",
		"tab":              "\tx",
		"list":             "- a\n",
		"string":           "hello",
		"shell script":     "#!/bin/sh\necho x\n",
		"MIME":             "Content-Type: multipart/mixed\n",
		"other module":     "runcmd: []\n",
		"beside the files": one + "runcmd: []\n",
		"two documents":    one + "---\n" + one,
		"key twice":        "write_files: []\nwrite_files: []\n",
		"files as map":     "write_files: {}\n",
		"files as string":  "write_files: x\n",
		"file as string":   "write_files:\n- x\n",
		"no path":          "write_files:\n- content: x\n",
		"empty path":       "write_files:\n- path: ''\n",
		"path as number":   "write_files:\n- path: 5\n",
		"path as list":     "write_files:\n- path: []\n",
		"content as map":   one + "  content: {}\n",
		"content as bool":  one + "  content: true\n",
		"binary content":   one + "  content: !!binary eA==\n",
		"permissions":      one + "  permissions: '0600'\n",
		"owner":            one + "  owner: root\n",
		"encoding":         one + "  encoding: b64\n",
		"append":           one + "  append: true\n",
		"upper case":       "write_files:\n- Path: x\n",
		"path twice":       one + "  path: x\n",
		"alias":            "write_files:\n- &a\n  path: x\n- *a\n",
		"merge":            "write_files:\n- <<: {path: x}\n",
		"many files":       "write_files:\n" + strings.Repeat("- path: x\n", maxFiles+1),
		"numbers as keys":  "1: x\n",
		"nul":              "write_files:\n- path: \"x\"\n  content: \x00\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if p, err := Parse([]byte(data), Options{}); !errors.Is(err, ErrUserData) || stage.Of(err) != stage.UserData {
				t.Fatalf("got %+v, %v", p, err)
			}
		})
	}
	if _, err := Parse(make([]byte, MaxUserData+1), Options{}); !errors.Is(err, bounded.ErrTooLarge) {
		t.Errorf("huge: got %v", err)
	}
}

func TestBadInitdataStopsTheGuest(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"not base64": "***", "not gzip": "eA==", "not TOML": packed(t, "["), "algorithm": packed(t, "[data]\n"),
		"two keys": packed(t, header+"'aa.toml' = 'x'\n'./aa.toml' = 'y'\n"),
		"number":   packed(t, header+"x = 1\n"),
	} {
		_, err := Parse(userData("/run/peerpod/initdata", text), Options{})
		if !errors.Is(err, initdata.ErrFormat) && !errors.Is(err, initdata.ErrAlgorithm) || stage.Of(err) != stage.Initdata {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := Parse(userData("/run/peerpod/initdata", ""), Options{}); stage.Of(err) != stage.Initdata {
		t.Errorf("empty: got %v", err)
	}
}

func TestFilesAreWrittenForDebuggingTools(t *testing.T) {
	t.Parallel()
	doc := header + "'aa.toml' = 'aa'\n"
	p, err := Parse(userData("/run/peerpod/apf.json", "{}", "/run/peerpod/auth.json", "{}", "/run/peerpod/initdata", packed(t, doc)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "peerpod")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "apf.json"), []byte("old, and longer"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := p.Write(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		content string
		mode    os.FileMode
	}{
		"apf.json": {"{}\n", 0o600}, "auth.json": {"{}\n", 0o600}, "aa.toml": {"aa", 0o644},
		"initdata": {packed(t, doc) + "\n", 0o644}, "initdata.digest": {hex.EncodeToString(p.Digest), 0o644},
	} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(b) != want.content {
			t.Errorf("%s: got %q, %v", name, b, err)
		}
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != want.mode {
			t.Errorf("%s: mode %v, %v", name, st.Mode(), err)
		}
	}
	for _, name := range []string{"cdh.toml", "policy.rego"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzUserData(f *testing.F) {
	f.Add(userData("/run/peerpod/apf.json", "{}", "/run/peerpod/initdata", packed(f, header)))
	f.Add([]byte("write_files:\n- path: x\n  content: |\n    y\n"))
	f.Add([]byte("#cloud-config\n---\nwrite_files: [{path: a, content: b}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data, Options{})
		if err == nil && (p.Initdata == nil || p.Digest == nil || p.AA != nil && !p.HasInitdata) {
			t.Fatalf("accepted %q as %+v", data, p)
		}
	})
}
