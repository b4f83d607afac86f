// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package image builds the files of a guest image and reads them back.
//
// The result is a function of its inputs: the same ones give the same bytes,
// whoever builds, where and when.
package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"cocoon/mkimage/format/cpio"
	"cocoon/mkimage/kernel"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/release"
	"cocoon/rootfs/boot"
	"cocoon/rootfs/recipe"
)

// Names of the outputs, in the manifest and, for files, in the directory.
const (
	KernelName = "kernel"
	KernelFile = "vmlinuz"
	InitrdName = "initrd"
	InitrdFile = "initrd.img"
	RootName   = "root"
	RootFile   = "root.img"
	DropInName = "kata-drop-in"
	DropInFile = "kata.toml"
	// UKIName is the unified kernel image, by which a machine boots itself.
	UKIName = "uki"
	UKIFile = "cocoon.efi"
)

// Inputs say what to build from. KernelDeb excludes Kernel and Modules.
type Inputs struct {
	Profile profile.Profile
	// KernelDeb is a Debian kernel package.
	KernelDeb string
	// KernelSHA256 is the digest that the package must have, unless empty.
	KernelSHA256 string
	// Kernel and Modules are a kernel image and the directory of its modules.
	Kernel, Modules string
	// StubDeb is the Debian package of systemd's stub, with StubSHA256 as its
	// digest unless that is empty, and Stub the stub itself. A machine that boots
	// itself takes one of them.
	StubDeb, StubSHA256, Stub string
	// Binary is the guest binary.
	Binary string
	// First is the program of rootfs/first, for a root on a disk.
	First string
	// InstallDir is where a kata shim will find the image; the drop-in says so.
	InstallDir string
	// Policy and CABundle are optional files for the root.
	Policy, CABundle string
	// Append are words for the end of the command line.
	Append []string
	// Epoch is SOURCE_DATE_EPOCH.
	Epoch int64
	// Compress makes the initramfs small whatever the profile says.
	Compress bool
}

// Progress is told what is being done; it gets one line each time.
type Progress func(format string, args ...any)

// ErrInput is wrapped by errors about inputs that do not fit together.
var ErrInput = errors.New("wrong input")

// Build makes the image in dir, which it creates. The manifest is written last:
// a directory with a manifest is complete.
func Build(ctx context.Context, in Inputs, dir string, progress Progress) (*manifest.Manifest, error) {
	b := &builder{in: in, progress: progress}
	b.man.Schema, b.man.Profile, b.man.Epoch = manifest.Schema, in.Profile.Name, in.Epoch
	b.man.Guest, b.man.Layout, b.man.TEEs = in.Profile.GuestName(), string(in.Profile.Layout), in.Profile.TEEs
	b.man.MemoryMiB = in.Profile.MemoryMiB
	b.man.Cmdline = strings.Join(slices.Concat(in.Profile.Cmdline, in.Append), " ")
	if err := checkCmdline(in.Profile, b.man.Cmdline); err != nil {
		return nil, err
	}
	if err := b.collect(ctx); err != nil {
		return nil, err
	}
	entries, err := b.assemble()
	if err != nil {
		return nil, err
	}
	if err := b.prepare(dir); err != nil {
		return nil, err
	}
	if in.Profile.Layout.OnDisk() {
		err = b.writeDisk(entries, dir)
	} else {
		err = b.packInitrd(entries)
	}
	if err != nil {
		return nil, err
	}
	if err := b.write(dir); err != nil {
		return nil, err
	}
	return &b.man, nil
}

// writeDisk writes the disk with the root, and makes the initramfs that leads to
// it.
func (b *builder) writeDisk(entries []recipe.Entry, dir string) (err error) {
	r, err := b.makeRoot(entries, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	own := ""
	if b.in.Profile.Layout == profile.Disk {
		// The root is named in the one place that is measured.
		b.man.Cmdline += " " + boot.ParamRoot + "=" + b.man.Verity.Text
		own = b.man.Cmdline
	}
	first, err := recipe.First(b.first, b.firstModules, own)
	if err != nil {
		return err
	}
	if err := b.packInitrd(first); err != nil {
		return err
	}
	if b.in.Profile.Layout == profile.Disk {
		return b.writeMachine(dir, r)
	}
	return b.writeExtension(dir, r)
}

type builder struct {
	in       Inputs
	progress Progress
	man      manifest.Manifest
	kern     *kernel.Kernel
	root     recipe.Inputs
	first    []byte
	stub     []byte
	// firstModules are those of the initramfs that leads to a root on a disk.
	firstModules []recipe.ModuleFile
	initrd       []byte
}

// collect reads every input and notes its digest.
func (b *builder) collect(ctx context.Context) error {
	if err := b.readKernel(ctx); err != nil {
		return err
	}
	b.root = recipe.Inputs{Profile: b.in.Profile.GuestName(), Epoch: b.in.Epoch}
	var err error
	if b.root.Binary, err = b.readProgram("binary", b.in.Binary); err != nil {
		return err
	}
	if b.in.Profile.Layout == profile.Disk {
		if err := b.readStub(ctx); err != nil {
			return err
		}
	}
	if b.in.Profile.Layout.OnDisk() {
		if b.first, err = b.readProgram("first", b.in.First); err != nil {
			return err
		}
	}
	if b.root.Policy, err = b.readOptional("policy", b.in.Policy); err != nil {
		return err
	}
	if b.root.CABundle, err = b.readOptional("ca-bundle", b.in.CABundle); err != nil {
		return err
	}
	return b.readTools()
}

func (b *builder) readKernel(ctx context.Context) error {
	var err error
	if b.in.KernelDeb == "" {
		if b.in.Kernel == "" || b.in.Modules == "" {
			return fmt.Errorf("%w: neither a kernel package nor a kernel with its modules", ErrInput)
		}
		if _, err = b.readInput("kernel", b.in.Kernel); err != nil {
			return err
		}
		b.kern, err = kernel.FromFiles(b.in.Kernel, b.in.Modules)
	} else {
		if b.in.Kernel != "" || b.in.Modules != "" {
			return fmt.Errorf("%w: both a kernel package and a kernel", ErrInput)
		}
		if err := b.readPackage("kernel-package", b.in.KernelDeb, b.in.KernelSHA256); err != nil {
			return err
		}
		b.progress("unpack kernel package %s", filepath.Base(b.in.KernelDeb))
		b.kern, err = kernel.FromDeb(ctx, b.in.KernelDeb)
	}
	if err != nil {
		return err
	}
	b.man.Release = b.kern.Release
	return nil
}

// readPackage notes a package, whose digest has to be the locked one, unless
// that is empty.
func (b *builder) readPackage(name, file, locked string) error {
	if _, err := b.readInput(name, file); err != nil {
		return err
	}
	if got := b.man.Inputs[len(b.man.Inputs)-1].SHA256; locked != "" && got != locked {
		return fmt.Errorf("%w: %s %q has sha256 %s, locked is %s", ErrInput, name, file, got, locked)
	}
	return nil
}

func (b *builder) readInput(name, file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) == 0 {
		return nil, fmt.Errorf("%w: %s %q is empty", ErrInput, name, file)
	}
	f := manifest.Describe(name, filepath.Base(file), data)
	f.SHA384 = ""
	b.man.Inputs = append(b.man.Inputs, f)
	return data, nil
}

func (b *builder) readOptional(name, file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	return b.readInput(name, file)
}

// readTools asks the guest binary what it was built from.
func (b *builder) readTools() error {
	info, err := buildinfo.Read(bytes.NewReader(b.root.Binary))
	if err != nil {
		return fmt.Errorf("%w: guest binary %q: %w", ErrInput, b.in.Binary, err)
	}
	b.man.Tools = manifest.Tools{Go: runtime.Version(), BinaryGo: info.GoVersion, Modules: []manifest.GoModule{}}
	for _, m := range info.Deps {
		for m.Replace != nil {
			m = m.Replace
		}
		b.man.Tools.Modules = append(b.man.Tools.Modules, manifest.GoModule{Path: m.Path, Version: m.Version, Sum: m.Sum})
	}
	return nil
}

// assemble finds the modules and returns the entries of the root.
func (b *builder) assemble() ([]recipe.Entry, error) {
	var err error
	if b.root.Modules, err = b.kern.Resolve(b.in.Profile.Wanted()); err != nil {
		return nil, fmt.Errorf("profile %q: %w", b.in.Profile.Name, err)
	}
	if b.firstModules, err = b.kern.Resolve(b.in.Profile.WantedFirst()); err != nil {
		return nil, fmt.Errorf("profile %q: %w", b.in.Profile.Name, err)
	}
	b.man.Modules = []manifest.Module{}
	for _, m := range b.root.Modules {
		d := sha256.Sum256(m.Data)
		b.man.Modules = append(b.man.Modules, manifest.Module{Path: m.Path, Optional: m.Optional, SHA256: hex.EncodeToString(d[:])})
	}
	b.progress("pack root with %d modules of %s", len(b.root.Modules), b.kern.Release)
	root, err := recipe.Root(b.root)
	if err != nil {
		return nil, err
	}
	archive, err := pack(root)
	if err != nil {
		return nil, err
	}
	d := sha256.Sum256(archive)
	b.man.Tree = "sha256:" + hex.EncodeToString(d[:])
	return root, nil
}

// packInitrd makes the initramfs.
func (b *builder) packInitrd(entries []recipe.Entry) error {
	var err error
	if b.initrd, err = pack(entries); err != nil {
		return err
	}
	if b.in.Compress || b.in.Profile.Compress {
		b.progress("compress initramfs of %.1f MB", float64(len(b.initrd))/1e6)
		b.initrd, err = compress(b.initrd)
	}
	return err
}

func pack(entries []recipe.Entry) ([]byte, error) {
	var archive bytes.Buffer
	if err := cpio.Write(&archive, entries); err != nil {
		return nil, fmt.Errorf("pack the initramfs: %w", err)
	}
	return archive.Bytes(), nil
}

// compress makes one zstd frame. One worker and a fixed level make the bytes
// depend on the pinned module alone; the window is far below the kernel's
// limit of 128 MiB.
func compress(data []byte) ([]byte, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithWindowSize(32<<20), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, fmt.Errorf("compress the initramfs: %w", err)
	}
	out := enc.EncodeAll(data, nil)
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("compress the initramfs: %w", err)
	}
	return out, nil
}

// prepare makes the directory and removes the manifest of an older image.
func (b *builder) prepare(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the output directory: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, manifest.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the manifest of an older image: %w", err)
	}
	return nil
}

func (b *builder) write(dir string) error {
	var outputs []output
	if b.in.Profile.Layout != profile.Disk {
		outputs = []output{{KernelName, KernelFile, b.kern.Image}, {InitrdName, InitrdFile, b.initrd}}
		if b.in.Profile.Layout == profile.SecureExecution {
			// One that is there was made of other parts.
			if err := errors.Join(removeIfThere(filepath.Join(dir, SEFile)), removeIfThere(filepath.Join(dir, SEHeaderFile))); err != nil {
				return fmt.Errorf("remove an older image: %w", err)
			}
			outputs = append(outputs, output{CmdlineName, CmdlineFile, []byte(b.man.Cmdline + "\n")})
		}
		if len(b.in.Profile.TEEs) > 0 {
			outputs = append(outputs, output{DropInName, DropInFile, b.dropIn()})
		}
	}
	for _, out := range outputs {
		if err := b.writeOutput(dir, out); err != nil {
			return err
		}
	}
	return b.finish(dir)
}

// finish writes what follows from the manifest, and the manifest last.
func (b *builder) finish(dir string) error {
	docs, err := release.Documents(&b.man)
	if err != nil {
		return err
	}
	for _, d := range docs {
		if err := writeFile(filepath.Join(dir, d.File), d.Data); err != nil {
			return err
		}
	}
	enc, err := b.man.Encode()
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, manifest.Name), enc)
}
