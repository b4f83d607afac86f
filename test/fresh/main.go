// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Command fresh runs the README's commands in a new Debian 12 root that holds
// nothing but Go, git and make, so that a missing install step shows.
//
// It bootstraps the root with debootstrap from the mirror that this machine's
// own apt uses, copies the Go distribution and the checkout into it, and runs
// `make demo` and `make test` there under chroot. It runs as root on a
// developer's machine and trusts both.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	keep := flag.Bool("keep", false, "leave the root directory for a look")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "fresh:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, keep bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("debootstrap and chroot need root")
	}
	base, err := os.MkdirTemp("", "cocoon-fresh-")
	if err != nil {
		return err
	}
	root := filepath.Join(base, "root")
	if keep {
		fmt.Println("the root is", root)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"bootstrap Debian 12 with git and make", func() error { return bootstrap(ctx, root) }},
		{"copy Go", func() error { return copyGo(ctx, root) }},
		{"copy the checkout", func() error { return copyCheckout(ctx, root) }},
		{"make demo", func() error { return inside(ctx, root, "make demo") }},
		{"make test", func() error { return inside(ctx, root, "make test") }},
	}
	for _, s := range steps {
		start := time.Now()
		fmt.Printf("== %s\n", s.name)
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Printf("== %s: %.0f s\n", s.name, time.Since(start).Seconds())
	}
	return nil
}

func bootstrap(ctx context.Context, root string) error {
	mirror, err := mirror(ctx)
	if err != nil {
		return err
	}
	if err := command(ctx, "debootstrap", "--variant=minbase", "--include=git,make,ca-certificates", "bookworm", root, mirror); err != nil {
		return err
	}
	// The new root uses what this machine uses: sources, proxies, name servers.
	for _, dir := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d", "/etc/apt/apt.conf.d", "/etc/apt/apt.conf", "/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs", "/usr/local/share/ca-certificates"} {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := command(ctx, "cp", "-aL", "--remove-destination", "-T", dir, filepath.Join(root, dir)); err != nil {
			return err
		}
	}
	return nil
}

// mirror returns the first Debian archive that apt is configured with.
func mirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for its archives: %w", err)
	}
	for s := bufio.NewScanner(strings.NewReader(string(out))); s.Scan(); {
		if u := s.Text(); strings.Contains(u, "debian") && !strings.Contains(u, "security") {
			return u, nil
		}
	}
	return "", errors.New("apt is configured with no Debian archive")
}

func copyGo(ctx context.Context, root string) error {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("ask for the Go distribution: %w", err)
	}
	return command(ctx, "cp", "-a", "-T", strings.TrimSpace(string(out)), filepath.Join(root, "usr/local/go"))
}

func copyCheckout(ctx context.Context, root string) error {
	top, err := os.Getwd()
	if err != nil {
		return err
	}
	return command(ctx, "git", "clone", "-q", "--no-hardlinks", top, filepath.Join(root, "root/cocoon"))
}

// inside runs a shell command in the root, in mount and process namespaces of
// its own, so that nothing it mounts or starts outlives it.
func inside(ctx context.Context, root, shell string) error {
	env := []string{"HOME=/root", "PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=dumb"}
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if strings.HasSuffix(strings.ToLower(name), "_proxy") || strings.HasPrefix(name, "GOPROXY") || strings.HasPrefix(name, "GOSUMDB") || strings.HasPrefix(name, "SSL_CERT") {
			env = append(env, e)
		}
	}
	// A change of root alone leaves / out of the mount table, which no machine does.
	const script = `mount --bind "$1" "$1" && cd "$1" && mount -t proc proc proc && mount --rbind /sys sys && mount --rbind /dev dev &&
mkdir -p .old && pivot_root . .old && cd / && umount -l .old && rmdir .old && cd /root/cocoon && exec /bin/sh -c "$2"`
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", script, "fresh", root, shell)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", shell, err)
	}
	return nil
}

func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = io.Discard, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
