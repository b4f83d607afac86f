// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/mkimage/image"
	"cocoon/mkimage/manifest"
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

type bootFlags struct {
	append          string
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
			c, err := f.machine(args[0], m)
			if err != nil {
				return err
			}
			c.Extra, c.Accel = args[1:], qemu.Accel(cmd.Context(), c.Kernel)
			progress("boot %s with %s, %d MiB", args[0], c.Accel, c.MemoryMiB)
			vm, err := qemu.Start(cmd.Context(), c, cmd.OutOrStdout())
			if err != nil {
				return err
			}
			return vm.Wait()
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.append, "append", "", "words for the end of the command line; they change the measurement")
	fl.IntVar(&f.memory, "memory", 0, "MiB of memory; default: the manifest's")
	fl.IntVar(&f.cpus, "cpus", 1, "number of processors")
	fl.StringArrayVar(&f.disks, "disk", nil, "raw disk image, read-only; may be repeated")
	fl.StringArrayVar(&f.forwards, "forward", nil, "HOSTPORT:GUESTPORT on 127.0.0.1; may be repeated")
	return cmd
}

// machine returns the machine for the image in dir.
func (f bootFlags) machine(dir string, m *manifest.Manifest) (qemu.Config, error) {
	c := image.Machine(dir, m)
	c.Cmdline, c.CPUs = strings.TrimSpace(c.Cmdline+" "+f.append), f.cpus
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
