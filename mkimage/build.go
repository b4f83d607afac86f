// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"cocoon/mkimage/image"
	"cocoon/mkimage/lock"
	"cocoon/mkimage/profile"
)

// epochVariable is the variable of the reproducible-builds specification.
const epochVariable = "SOURCE_DATE_EPOCH"

type buildFlags struct {
	profile, lock, cache, out string
	in                        image.Inputs
}

func buildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build --binary FILE --out DIR [--kernel-deb FILE | --lock FILE | --kernel FILE --modules DIR]",
		Short: "build an image and its manifest",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.resolve(cmd); err != nil {
				return err
			}
			m, err := image.Build(cmd.Context(), f.in, f.out, progress)
			if err != nil {
				return err
			}
			for _, o := range m.Outputs {
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", o.SHA256, o.File)
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.profile, "profile", "dev", "kind of image; see mkimage profiles")
	fl.StringVar(&f.in.Binary, "binary", "", "guest binary")
	fl.StringVar(&f.out, "out", "", "output directory")
	fl.StringVar(&f.in.KernelDeb, "kernel-deb", "", "Debian kernel package")
	fl.StringVar(&f.lock, "lock", "", "lock file that names the kernel package")
	fl.StringVar(&f.cache, "cache", "", "directory of downloaded packages, with --lock; default: that of the lock file")
	fl.StringVar(&f.in.Kernel, "kernel", "", "kernel image, with --modules")
	fl.StringVar(&f.in.Modules, "modules", "", "directory of the kernel's modules, named like its release")
	fl.StringVar(&f.in.Policy, "policy", "", "default agent policy; without it the guest refuses all until initdata brings one")
	fl.StringVar(&f.in.CABundle, "ca-bundle", "", "PEM file of the TLS roots that the guest trusts")
	fl.StringArrayVar(&f.in.Append, "append", nil, "word for the end of the kernel command line; may be repeated")
	fl.BoolVar(&f.in.Compress, "compress", false, "compress the initramfs: smaller, and slower to boot under emulation")
	for _, required := range []string{"binary", "out"} {
		must(cmd.MarkFlagRequired(required))
	}
	return cmd
}

// must reports a mistake in the definition of a command.
func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(2)
	}
}

func (f *buildFlags) resolve(cmd *cobra.Command) error {
	var err error
	if f.in.Profile, err = profile.Named(f.profile); err != nil {
		return err
	}
	if v, ok := os.LookupEnv(epochVariable); ok {
		if f.in.Epoch, err = strconv.ParseInt(v, 10, 64); err != nil || f.in.Epoch < 0 {
			return fmt.Errorf("%s=%q is not a number of seconds", epochVariable, v)
		}
	}
	if f.lock == "" {
		return nil
	}
	if f.in.KernelDeb != "" || f.in.Kernel != "" {
		return fmt.Errorf("%w: --lock already names the kernel", image.ErrInput)
	}
	if f.cache == "" {
		f.cache = filepath.Dir(f.lock)
	}
	if _, err := lock.Read(f.lock); err != nil {
		return err
	}
	l := lock.Locker{Run: lock.RunCommand, Cache: f.cache, Progress: progress}
	file, k, err := l.Kernel(cmd.Context(), f.lock, false)
	if err != nil {
		return err
	}
	f.in.KernelDeb, f.in.KernelSHA256 = file, k.Kernel.SHA256
	return nil
}

func lockCommand() *cobra.Command {
	var file, cache string
	var renew, renewGone bool
	cmd := &cobra.Command{
		Use:   "lock --lock FILE [--cache DIR] [--renew | --renew-gone]",
		Short: "find, download and pin the guest kernel package",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cache == "" {
				cache = filepath.Dir(file)
			}
			l := lock.Locker{Run: lock.RunCommand, Cache: cache, Progress: progress}
			deb, _, err := l.Kernel(cmd.Context(), file, renew)
			if renewGone && errors.Is(err, lock.ErrGone) {
				progress("%v", err)
				deb, _, err = l.Kernel(cmd.Context(), file, true)
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), deb)
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&file, "lock", "", "lock file")
	fl.StringVar(&cache, "cache", "", "directory for the package; default: that of the lock file")
	fl.BoolVar(&renew, "renew", false, "take the current package even if another is locked")
	fl.BoolVar(&renewGone, "renew-gone", false, "take the current package if the locked one has left the archive; never because its bytes differ")
	must(cmd.MarkFlagRequired("lock"))
	return cmd
}

func profilesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "profiles [NAME]",
		Short: "list the profiles, or print one as JSON",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				for _, p := range profile.All() {
					fmt.Fprintf(cmd.OutOrStdout(), "%-10s %s\n", p.Name, p.Purpose)
				}
				return nil
			}
			p, err := profile.Named(args[0])
			if err != nil {
				return err
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			return enc.Encode(p)
		},
	}
}
