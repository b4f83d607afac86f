// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// archive plays the package manager.
type archive struct {
	current string // package on which the meta package depends
	content string
	file    string // name of the file that a download brings
	asked   []string
	err     error
}

func (a *archive) run(_ context.Context, dir, program string, args ...string) ([]byte, error) {
	a.asked = append(a.asked, filepath.Base(program)+" "+args[len(args)-1])
	if a.err != nil {
		return nil, a.err
	}
	if filepath.Base(program) == "apt-cache" {
		return []byte(KernelMeta + "\n  Depends: " + a.current + "\n"), nil
	}
	if a.file == "" {
		return nil, nil
	}
	return nil, os.WriteFile(filepath.Join(dir, a.file), []byte(a.content), 0o600)
}

func setup(t *testing.T) (*archive, *Locker, string) {
	t.Helper()
	a := &archive{current: "linux-image-6.1-cloud", content: "kernel", file: "linux-image-6.1-cloud_6.1.1_amd64.deb"}
	dir := t.TempDir()
	return a, &Locker{Run: a.run, Cache: filepath.Join(dir, "cache"), Progress: func(string, ...any) {}}, filepath.Join(dir, "lock.json")
}

func TestTheFirstRunLocksAndLaterOnesKeepTheLock(t *testing.T) {
	t.Parallel()
	a, l, file := setup(t)
	deb, k, err := l.Kernel(t.Context(), file, false)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(deb); err != nil || string(b) != "kernel" || k.Kernel.Name != a.current {
		t.Errorf("got %q, %+v, %v", b, k, err)
	}
	a.current, a.asked = "linux-image-6.2-cloud", nil
	again, k2, err := l.Kernel(t.Context(), file, false)
	if err != nil || again != deb || *k2 != *k || len(a.asked) != 0 {
		t.Errorf("second run gives %q, %+v, %v and asked %q", again, k2, err, a.asked)
	}
	if left, err := filepath.Glob(filepath.Join(l.Cache, ".download-*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	a.file = "linux-image-6.2-cloud_6.2.1_amd64.deb"
	if _, k3, err := l.Kernel(t.Context(), file, true); err != nil || k3.Kernel.Name != a.current {
		t.Errorf("renewal gives %+v, %v", k3, err)
	}
}

func TestAnotherDigestStops(t *testing.T) {
	t.Parallel()
	a, l, file := setup(t)
	deb, _, err := l.Kernel(t.Context(), file, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(deb, []byte("tampered"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Kernel(t.Context(), file, false); !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), deb) {
		t.Errorf("a changed package gives %v", err)
	}
	if err := os.Remove(deb); err != nil {
		t.Fatal(err)
	}
	a.content = "another build"
	if _, _, err := l.Kernel(t.Context(), file, false); !errors.Is(err, ErrDigest) {
		t.Errorf("another download gives %v", err)
	}
	if err := os.Remove(deb); err != nil {
		t.Fatal(err)
	}
	a.file = "linux-image-6.1-cloud_6.1.2_amd64.deb"
	if _, _, err := l.Kernel(t.Context(), file, false); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "renew") {
		t.Errorf("another version gives %v", err)
	}
}

func TestAnswersOfThePackageManagerAreChecked(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, tc := range map[string]struct {
		change func(*archive)
		want   error
	}{
		"fails":            {func(a *archive) { a.err = boom }, boom},
		"path as package":  {func(a *archive) { a.current = "linux-image-../../x" }, ErrInvalid},
		"other package":    {func(a *archive) { a.current = "evil" }, ErrInvalid},
		"virtual package":  {func(a *archive) { a.current = "<linux-image>" }, ErrInvalid},
		"two alternatives": {func(a *archive) { a.current = "linux-image-a\n  Depends: linux-image-b" }, ErrInvalid},
		"nothing arrives":  {func(a *archive) { a.file = "" }, ErrInvalid},
	} {
		a, l, file := setup(t)
		tc.change(a)
		if _, _, err := l.Kernel(t.Context(), file, false); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a lock was written", name)
		}
	}
}

func TestAMalformedLockIsNotReplacedInSilence(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("ab", 32)
	for name, content := range map[string]string{
		"empty": "", "schema": `{"schema":"x"}`, "unknown": `{"schema":"cocoon.lock/1","x":1}`,
		"short digest": `{"schema":"cocoon.lock/1","kernel":{"name":"linux-image-a","file":"linux-image-a_1.deb","sha256":"ab"}}`,
		"path":         `{"schema":"cocoon.lock/1","kernel":{"name":"linux-image-a","file":"../linux-image-a_1.deb","sha256":"` + sum + `"}}`,
		"other name":   `{"schema":"cocoon.lock/1","kernel":{"name":"bash","file":"bash_1.deb","sha256":"` + sum + `"}}`,
		"option":       `{"schema":"cocoon.lock/1","kernel":{"name":"-o=x","file":"-o=x_1.deb","sha256":"` + sum + `"}}`,
	} {
		a, l, file := setup(t)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Kernel(t.Context(), file, false); !errors.Is(err, ErrInvalid) || len(a.asked) != 0 {
			t.Errorf("%s: got %v after asking %q", name, err, a.asked)
		}
	}
}

func TestACommandsComplaintIsPartOfTheError(t *testing.T) {
	t.Parallel()
	_, err := RunCommand(t.Context(), t.TempDir(), "/bin/sh", "-c", "echo no such package >&2; exit 100")
	if err == nil || !strings.Contains(err.Error(), "no such package") {
		t.Errorf("got %v", err)
	}
	if out, err := RunCommand(t.Context(), "", "/bin/sh", "-c", "echo $LC_ALL"); err != nil || string(out) != "C\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"schema":"cocoon.lock/1","kernel":{"name":"linux-image-a","file":"linux-image-a_1.deb","sha256":"` + strings.Repeat("00", 32) + `"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := parse(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("error %v is not ErrInvalid", err)
			}
			return
		}
		if filepath.Base(k.Kernel.File) != k.Kernel.File || len(k.Kernel.SHA256) != 64 {
			t.Errorf("accepted %+v", k)
		}
	})
}

func TestOnlyAPackageThatHasLeftTheArchiveIsGone(t *testing.T) {
	t.Parallel()
	lost := errors.New("no route to the archive")
	for name, tc := range map[string]struct {
		change func(a *archive)
		gone   bool
	}{
		"a newer file of the same name": {func(a *archive) { a.file = "linux-image-6.1-cloud_6.1.2_amd64.deb" }, true},
		"another package":               {func(a *archive) { a.file, a.current = "", "linux-image-6.2-cloud" }, true},
		"no network":                    {func(a *archive) { a.err = lost }, false},
		"nothing arrives":               {func(a *archive) { a.file = "" }, false},
		"other bytes":                   {func(a *archive) { a.content = "evil" }, false},
	} {
		a, l, file := setup(t)
		deb, _, err := l.Kernel(t.Context(), file, false)
		if err := errors.Join(err, os.Remove(deb)); err != nil {
			t.Fatal(err)
		}
		tc.change(a)
		if _, _, err := l.Kernel(t.Context(), file, false); err == nil || errors.Is(err, ErrGone) != tc.gone {
			t.Errorf("%s: %v", name, err)
		}
	}
}
