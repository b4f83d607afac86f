// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"cocoon/mkimage/image"
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
			fmt.Fprintf(out, "initramfs, uncompressed: %s\n", m.Tree)
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

func bootCommand() *cobra.Command {
	var c qemu.Config
	var words string
	var disks, forwards []string
	cmd := &cobra.Command{
		Use:   "boot DIR [-- QEMU-ARGUMENT...]",
		Short: "start an image in QEMU, with KVM if a guest really boots on it",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := image.Open(args[0])
			if err != nil {
				return err
			}
			c.Kernel, c.Initrd = filepath.Join(args[0], image.KernelFile), filepath.Join(args[0], image.InitrdFile)
			c.Cmdline, c.Extra = m.Cmdline, args[1:]
			if words != "" {
				c.Cmdline += " " + words
			}
			if c.MemoryMiB == 0 {
				c.MemoryMiB = m.MemoryMiB
			}
			for _, d := range disks {
				c.Disks = append(c.Disks, qemu.Disk{File: d, ReadOnly: true})
			}
			for _, f := range forwards {
				var p qemu.Forward
				if n, err := fmt.Sscanf(f, "%d:%d", &p.HostPort, &p.GuestPort); n != 2 || err != nil {
					return fmt.Errorf("forward %q is not HOSTPORT:GUESTPORT", f)
				}
				c.Forwards = append(c.Forwards, p)
			}
			c.Accel = qemu.Accel(cmd.Context(), c.Kernel)
			progress("boot %s with %s, %d MiB", args[0], c.Accel, c.MemoryMiB)
			vm, err := qemu.Start(cmd.Context(), c, cmd.OutOrStdout())
			if err != nil {
				return err
			}
			return vm.Wait()
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&words, "append", "", "words for the end of the command line; they change the measurement")
	fl.IntVar(&c.MemoryMiB, "memory", 0, "MiB of memory; default: the manifest's")
	fl.IntVar(&c.CPUs, "cpus", 1, "number of processors")
	fl.StringArrayVar(&disks, "disk", nil, "raw disk image, read-only; may be repeated")
	fl.StringArrayVar(&forwards, "forward", nil, "HOSTPORT:GUESTPORT on 127.0.0.1; may be repeated")
	return cmd
}
