// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/mkimage/image"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/qemu"
	"cocoon/rootfs/recipe"
)

func inspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect DIR",
		Short: "check an image against its manifest and list its files",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := image.Open(args[0])
			if err != nil {
				return err
			}
			entries, err := image.Root(args[0], m)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "profile %s, kernel %s\ncommand line %s\n", m.Profile, m.Release, m.Cmdline)
			if err := inspectHeader(out, args[0], m); err != nil {
				return err
			}
			for _, o := range m.Outputs {
				fmt.Fprintf(out, "%s %10d  %s\n", o.SHA256, o.Size, o.File)
			}
			fmt.Fprintf(out, "root: %s\n", m.Tree)
			for _, e := range entries {
				fmt.Fprintln(out, describe(e))
			}
			return nil
		},
	}
}

func describe(e recipe.Entry) string {
	switch e.Type() {
	case recipe.TypeSymlink:
		return fmt.Sprintf("%06o %10s  %s -> %s", e.Mode, "", e.Path, e.Data)
	case recipe.TypeChar:
		return fmt.Sprintf("%06o %10s  %s", e.Mode, fmt.Sprintf("%d:%d", e.Major, e.Minor), e.Path)
	case recipe.TypeFile:
		d := sha256.Sum256(e.Data)
		return fmt.Sprintf("%06o %10d  %s %x", e.Mode, len(e.Data), e.Path, d[:8])
	}
	return fmt.Sprintf("%06o %10s  %s", e.Mode, "", e.Path)
}

// defaultFirmware is where Debian's package ovmf has it.
const defaultFirmware = "/usr/share/OVMF/OVMF_CODE_4M.fd"

type bootFlags struct {
	append          string
	firmware        string
	memory, cpus    int
	disks, forwards []string
}

func bootCommand() *cobra.Command {
	var f bootFlags
	cmd := &cobra.Command{
		Use:   "boot DIR [-- QEMU-ARGUMENT...]",
		Short: "start an image in QEMU, with KVM if a guest really boots on it",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := image.Open(args[0])
			if err != nil {
				return err
			}
			if m.Layout == string(profile.SecureExecution) {
				return fmt.Errorf("%w: an image for Secure Execution starts on IBM Z only", image.ErrInput)
			}
			c, err := f.machine(args[0], m)
			if err != nil {
				return err
			}
			c.Extra = args[1:]
			return f.boot(cmd, args[0], m, c)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.firmware, "firmware", defaultFirmware, "code of UEFI firmware, for an image that boots itself")
	fl.StringVar(&f.append, "append", "", "words for the end of the command line; they change the measurement")
	fl.IntVar(&f.memory, "memory", 0, "MiB of memory; default: the manifest's")
	fl.IntVar(&f.cpus, "cpus", 1, "number of processors")
	fl.StringArrayVar(&f.disks, "disk", nil, "raw disk image, read-only; may be repeated")
	fl.StringArrayVar(&f.forwards, "forward", nil, "HOSTPORT:GUESTPORT on 127.0.0.1; may be repeated")
	return cmd
}

// boot starts the machine and waits for its end. What an image that boots itself
// takes beside its own files is in a directory that is removed again.
func (f bootFlags) boot(cmd *cobra.Command, dir string, m *manifest.Manifest, c qemu.Config) (err error) {
	kernel := c.Kernel
	if kernel == "" {
		tmp, err := os.MkdirTemp("", "cocoon-boot-")
		if err != nil {
			return fmt.Errorf("boot %q: %w", dir, err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
		disk := filepath.Join(tmp, "disk.raw")
		kernel = filepath.Join(tmp, "vmlinuz")
		if err := errors.Join(unpackDisk(dir, m, disk), image.UnpackKernel(dir, m, kernel)); err != nil {
			return err
		}
		// What the guest writes is gone with the directory.
		c.Disks = append([]qemu.Disk{{File: disk}}, c.Disks...)
	}
	c.Accel = qemu.Accel(cmd.Context(), kernel)
	progress("boot %s with %s, %d MiB", dir, c.Accel, c.MemoryMiB)
	vm, err := qemu.Start(cmd.Context(), c, cmd.OutOrStdout())
	if err != nil {
		return err
	}
	return vm.Wait()
}

func unpackDisk(dir string, m *manifest.Manifest, name string) (err error) {
	w, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("unpack the disk: %w", err)
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	return image.RawDisk(dir, m, w)
}

// machine returns the machine for the image in dir.
func (f bootFlags) machine(dir string, m *manifest.Manifest) (qemu.Config, error) {
	c := image.Machine(dir, m)
	c.CPUs = f.cpus
	switch {
	case c.Kernel != "":
		c.Cmdline = strings.TrimSpace(c.Cmdline + " " + f.append)
	case f.append != "":
		return c, fmt.Errorf("%w: the command line of an image that boots itself is in its program", image.ErrInput)
	default:
		if _, err := os.Stat(f.firmware); err != nil {
			return c, fmt.Errorf("an image that boots itself needs firmware, such as of Debian's package ovmf: %w", err)
		}
		c.Firmware = f.firmware
	}
	if f.memory > 0 {
		c.MemoryMiB = f.memory
	}
	for _, d := range f.disks {
		c.Disks = append(c.Disks, qemu.Disk{File: d, ReadOnly: true})
	}
	for _, s := range f.forwards {
		host, guest, _ := strings.Cut(s, ":")
		h, errHost := strconv.ParseUint(host, 10, 16)
		g, errGuest := strconv.ParseUint(guest, 10, 16)
		if errHost != nil || errGuest != nil {
			return c, fmt.Errorf("forward %q is not HOSTPORT:GUESTPORT", s)
		}
		c.Forwards = append(c.Forwards, qemu.Forward{HostPort: int(h), GuestPort: int(g)})
	}
	return c, nil
}
