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
type fakeArchive struct {
	current string // package on which the meta package depends
	content string
	file    string // name of the file that a download brings
	asked   []string
	targets string
	err     error
}

func (a *fakeArchive) run(_ context.Context, dir, program string, args ...string) ([]byte, error) {
	a.asked = append(a.asked, filepath.Base(program)+" "+args[len(args)-1])
	if a.err != nil {
		return nil, a.err
	}
	if args[0] == "indextargets" {
		return []byte(a.targets), nil
	}
	if args[len(args)-1] == "update" {
		return nil, nil
	}
	if filepath.Base(program) == "apt-cache" {
		return []byte(KernelMeta + "\n  Depends: " + a.current + "\n"), nil
	}
	if a.file == "" {
		return nil, nil
	}
	return nil, os.WriteFile(filepath.Join(dir, a.file), []byte(a.content), 0o600)
}

func setup(t *testing.T) (*fakeArchive, *Locker, string) {
	t.Helper()
	a := &fakeArchive{current: "linux-image-6.1-cloud", content: "kernel", file: "linux-image-6.1-cloud_6.1.1_amd64.deb"}
	dir := t.TempDir()
	return a, &Locker{Run: a.run, Cache: filepath.Join(dir, "cache"), Progress: func(string, ...any) {}}, filepath.Join(dir, "lock.json")
}

func TestTheFirstRunLocksAndLaterOnesKeepTheLock(t *testing.T) {
	t.Parallel()
	a, l, file := setup(t)
	deb, k, err := l.Package(t.Context(), file, Kernel, false)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(deb); err != nil || string(b) != "kernel" || k.Name != a.current {
		t.Errorf("got %q, %+v, %v", b, k, err)
	}
	a.current, a.asked = "linux-image-6.2-cloud", nil
	again, k2, err := l.Package(t.Context(), file, Kernel, false)
	if err != nil || again != deb || k2 != k || len(a.asked) != 0 {
		t.Errorf("second run gives %q, %+v, %v and asked %q", again, k2, err, a.asked)
	}
	if left, err := filepath.Glob(filepath.Join(l.Cache, ".download-*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	a.file = "linux-image-6.2-cloud_6.2.1_amd64.deb"
	if _, k3, err := l.Package(t.Context(), file, Kernel, true); err != nil || k3.Name != a.current {
		t.Errorf("renewal gives %+v, %v", k3, err)
	}
}

func TestTheKernelForTEEsComesFromBackports(t *testing.T) {
	t.Parallel()
	a, l, file := setup(t)
	a.targets = "http://archive.test/debian/ stable-updates main\nhttp://archive.test/debian/ stable contrib\nhttp://archive.test/debian/ stable main\n"
	if _, _, err := l.Package(t.Context(), file, Kernel, false); err != nil {
		t.Fatal(err)
	}
	a.current, a.file = "linux-image-6.12-cloud", "linux-image-6.12-cloud_6.12.1_amd64.deb"
	if _, p, err := l.Package(t.Context(), file, KernelTEE, false); err != nil || p.Name != a.current {
		t.Fatalf("%+v, %v", p, err)
	}
	line, err := os.ReadFile(filepath.Join(l.Cache, "apt", "backports.list"))
	if err != nil || !strings.HasPrefix(string(line), "deb ") || !strings.HasSuffix(string(line), "http://archive.test/debian/ stable-backports main\n") {
		t.Errorf("%q, %v", line, err)
	}
	k, err := Read(file)
	if err != nil || len(k.Packages) != 2 || k.Packages[Kernel].Name != "linux-image-6.1-cloud" {
		t.Errorf("%+v, %v", k, err)
	}
	if _, _, err := l.Package(t.Context(), file, "shell", false); !errors.Is(err, ErrInvalid) {
		t.Errorf("a role that nobody knows: %v", err)
	}
	for _, targets := range []string{"", "x", "http://archive.test/ [trusted=yes] main", "http://archive.test/ stable-updates main", "http://archive.test/ stable contrib"} {
		if line, err := backportsOf(targets, "s390x"); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %q, %v", targets, line, err)
		}
	}
}

func TestAKernelOfAnotherArchitectureIsAskedForByItsName(t *testing.T) {
	t.Parallel()
	a, l, file := setup(t)
	var commands []string
	l.Run = func(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
		commands = append(commands, strings.Join(args, " "))
		return a.run(ctx, dir, program, args...)
	}
	a.targets = "http://archive.test/debian/ stable main\n"
	a.current, a.file = "linux-image-6.12-s390x", "linux-image-6.12-s390x_6.12.1_s390x.deb"
	if _, p, err := l.Package(t.Context(), file, KernelS390x, false); err != nil || p.File != a.file {
		t.Fatalf("%+v, %v", p, err)
	}
	line, err := os.ReadFile(filepath.Join(l.Cache, "apt-s390x", "backports.list"))
	if err != nil || !strings.HasPrefix(string(line), "deb [arch=s390x") || !strings.HasSuffix(string(line), "http://archive.test/debian/ stable-backports main\n") {
		t.Errorf("%q, %v", line, err)
	}
	for _, c := range commands[1:] {
		if !strings.Contains(c, "APT::Architecture=s390x") || !strings.Contains(c, "APT::Architectures=s390x") {
			t.Errorf("the package manager is asked about its own machine: %s", c)
		}
	}
	if len(commands) != 4 || !strings.HasSuffix(commands[2], KernelMetaS390x) {
		t.Errorf("commands %q", commands)
	}
}

func TestTheStubIsAPackageOfItsOwnName(t *testing.T) {
	t.Parallel()
	a, l, file := setup(t)
	a.file = StubPackage + "_252.1_amd64.deb"
	deb, p, err := l.Package(t.Context(), file, Stub, false)
	if err != nil || p.Name != StubPackage || len(a.asked) != 1 {
		t.Fatalf("%+v, %v after asking %q", p, err, a.asked)
	}
	if err := os.Remove(deb); err != nil {
		t.Fatal(err)
	}
	a.file = StubPackage + "_252.2_amd64.deb"
	if _, _, err := l.Package(t.Context(), file, Stub, false); !errors.Is(err, ErrGone) {
		t.Errorf("another version gives %v", err)
	}
}

func TestAnotherDigestStops(t *testing.T) {
	t.Parallel()
	a, l, file := setup(t)
	deb, _, err := l.Package(t.Context(), file, Kernel, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(deb, []byte("tampered"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Package(t.Context(), file, Kernel, false); !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), deb) {
		t.Errorf("a changed package gives %v", err)
	}
	if err := os.Remove(deb); err != nil {
		t.Fatal(err)
	}
	a.content = "another build"
	if _, _, err := l.Package(t.Context(), file, Kernel, false); !errors.Is(err, ErrDigest) {
		t.Errorf("another download gives %v", err)
	}
	if err := os.Remove(deb); err != nil {
		t.Fatal(err)
	}
	a.file = "linux-image-6.1-cloud_6.1.2_amd64.deb"
	if _, _, err := l.Package(t.Context(), file, Kernel, false); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "renew") {
		t.Errorf("another version gives %v", err)
	}
}

func TestAnswersOfThePackageManagerAreChecked(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, tc := range map[string]struct {
		change func(*fakeArchive)
		want   error
	}{
		"fails":            {func(a *fakeArchive) { a.err = boom }, boom},
		"path as package":  {func(a *fakeArchive) { a.current = "linux-image-../../x" }, ErrInvalid},
		"other package":    {func(a *fakeArchive) { a.current = "evil" }, ErrInvalid},
		"virtual package":  {func(a *fakeArchive) { a.current = "<linux-image>" }, ErrInvalid},
		"two alternatives": {func(a *fakeArchive) { a.current = "linux-image-a\n  Depends: linux-image-b" }, ErrInvalid},
		"nothing arrives":  {func(a *fakeArchive) { a.file = "" }, ErrInvalid},
	} {
		a, l, file := setup(t)
		tc.change(a)
		if _, _, err := l.Package(t.Context(), file, Kernel, false); !errors.Is(err, tc.want) {
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
		"empty": "", "schema": `{"schema":"x"}`, "unknown": `{"schema":"cocoon.lock/2","x":1}`,
		"short digest": `{"schema":"cocoon.lock/2","packages":{"kernel":{"name":"linux-image-a","file":"linux-image-a_1.deb","sha256":"ab"}}}`,
		"path":         `{"schema":"cocoon.lock/2","packages":{"kernel":{"name":"linux-image-a","file":"../linux-image-a_1.deb","sha256":"` + sum + `"}}}`,
		"no packages":  `{"schema":"cocoon.lock/2"}`,
		"unknown role": `{"schema":"cocoon.lock/2","packages":{"shell":{"name":"linux-image-a","file":"linux-image-a_1.deb","sha256":"` + sum + `"}}}`,
		"old schema":   `{"schema":"cocoon.lock/1","kernel":{"name":"linux-image-a","file":"linux-image-a_1.deb","sha256":"` + sum + `"}}`,
		"other name":   `{"schema":"cocoon.lock/2","packages":{"kernel":{"name":"bash","file":"bash_1.deb","sha256":"` + sum + `"}}}`,
		"other stub":   `{"schema":"cocoon.lock/2","packages":{"stub":{"name":"systemd-boot-efi2","file":"systemd-boot-efi2_1.deb","sha256":"` + sum + `"}}}`,
		"option":       `{"schema":"cocoon.lock/2","packages":{"kernel":{"name":"-o=x","file":"-o=x_1.deb","sha256":"` + sum + `"}}}`,
	} {
		a, l, file := setup(t)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Package(t.Context(), file, Kernel, false); !errors.Is(err, ErrInvalid) || len(a.asked) != 0 {
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
	f.Add([]byte(`{"schema":"cocoon.lock/2","packages":{"kernel":{"name":"linux-image-a","file":"linux-image-a_1.deb","sha256":"` + strings.Repeat("00", 32) + `"}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := parse(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("error %v is not ErrInvalid", err)
			}
			return
		}
		for r, p := range k.Packages {
			if filepath.Base(p.File) != p.File || len(p.SHA256) != 64 {
				t.Errorf("accepted %s: %+v", r, p)
			}
		}
	})
}

func TestOnlyAPackageThatHasLeftTheArchiveIsGone(t *testing.T) {
	t.Parallel()
	lost := errors.New("no route to the archive")
	for name, tc := range map[string]struct {
		change func(a *fakeArchive)
		gone   bool
	}{
		"a newer file of the same name": {func(a *fakeArchive) { a.file = "linux-image-6.1-cloud_6.1.2_amd64.deb" }, true},
		"another package":               {func(a *fakeArchive) { a.file, a.current = "", "linux-image-6.2-cloud" }, true},
		"no network":                    {func(a *fakeArchive) { a.err = lost }, false},
		"nothing arrives":               {func(a *fakeArchive) { a.file = "" }, false},
		"other bytes":                   {func(a *fakeArchive) { a.content = "evil" }, false},
	} {
		a, l, file := setup(t)
		deb, _, err := l.Package(t.Context(), file, Kernel, false)
		if err := errors.Join(err, os.Remove(deb)); err != nil {
			t.Fatal(err)
		}
		tc.change(a)
		if _, _, err := l.Package(t.Context(), file, Kernel, false); err == nil || errors.Is(err, ErrGone) != tc.gone {
			t.Errorf("%s: %v", name, err)
		}
	}
}
