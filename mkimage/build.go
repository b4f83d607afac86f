// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"cocoon/mkimage/image"
	"cocoon/mkimage/lock"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/pvimg"
)

// epochVariable is the variable of the reproducible-builds specification.
const epochVariable = "SOURCE_DATE_EPOCH"

type buildFlags struct {
	profile, lock, cache, out string
	firmware                  string
	dump                      bool
	in                        image.Inputs
	seal                      pvimg.Options
}

func buildCommand() *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build --binary FILE --out DIR [--kernel-deb FILE | --lock FILE | --kernel FILE --modules DIR]",
		Short: "build an image and its manifest",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.dump {
				return dumpProfile(cmd, f.profile)
			}
			if err := f.resolve(cmd); err != nil {
				return err
			}
			m, err := image.Build(cmd.Context(), f.in, f.out, progress)
			if err == nil && f.in.Profile.Layout == profile.SecureExecution {
				m, err = sealBuilt(cmd, f.out, m, &f.seal)
			}
			return refer(cmd, f.out, f.firmware)(m, err)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.profile, "profile", "dev", "kind of image, see mkimage profiles, or a YAML file that inherits one")
	fl.BoolVar(&f.dump, "dump", false, "print the profile with all that it inherits, and build nothing")
	fl.StringVar(&f.in.First, "first", "", "program of an initramfs that leads to a root on a disk, for profiles with one")
	fl.StringVar(&f.in.InstallDir, "install-dir", "", "where a kata shim will find the image; default /opt/cocoon/PROFILE")
	fl.StringVar(&f.in.Binary, "binary", "", "guest binary")
	fl.StringVar(&f.out, "out", "", "output directory")
	fl.StringVar(&f.in.KernelDeb, "kernel-deb", "", "Debian kernel package")
	fl.StringVar(&f.lock, "lock", "", "lock file that names the kernel package")
	fl.StringVar(&f.cache, "cache", "", "directory of downloaded packages, with --lock; default: that of the lock file")
	fl.StringVar(&f.in.Kernel, "kernel", "", "kernel image, with --modules")
	fl.StringVar(&f.in.Modules, "modules", "", "directory of the kernel's modules, named like its release")
	fl.StringVar(&f.in.StubDeb, "stub-deb", "", "Debian package of systemd's stub, for images that boot themselves")
	fl.StringVar(&f.in.Stub, "stub", "", "systemd's stub, instead of its package")
	fl.StringVar(&f.firmware, "firmware", "", "firmware that the guest will be launched with, for the reference values that depend on it; no part of the image")
	fl.StringVar(&f.in.Policy, "policy", "", "default agent policy; without it the guest refuses all until initdata brings one")
	fl.StringVar(&f.in.CABundle, "ca-bundle", "", "PEM file of the TLS roots that the guest trusts")
	fl.StringArrayVar(&f.in.Append, "append", nil, "word for the end of the kernel command line; may be repeated")
	sealFlags(fl, &f.seal)
	fl.BoolVar(&f.in.Compress, "compress", false, "compress the initramfs: smaller, and slower to boot under emulation")
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
	if f.in.Binary == "" || f.out == "" {
		return fmt.Errorf("%w: --binary and --out are required", image.ErrInput)
	}
	if f.in.Profile, err = profile.Named(f.profile); err != nil {
		return err
	}
	if err := errors.Join(f.checkFirmware(), checkSeal(f.in.Profile, &f.seal)); err != nil {
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
	if f.in.KernelDeb != "" || f.in.Kernel != "" || f.in.StubDeb != "" || f.in.Stub != "" {
		return fmt.Errorf("%w: --lock already names kernel and stub", image.ErrInput)
	}
	if f.cache == "" {
		f.cache = filepath.Dir(f.lock)
	}
	if _, err := lock.Read(f.lock); err != nil {
		return err
	}
	l := lock.Locker{Run: lock.RunCommand, Cache: f.cache, Progress: progress}
	for _, role := range f.in.Profile.Roles() {
		file, p, err := l.Package(cmd.Context(), f.lock, role, false)
		if err != nil {
			return err
		}
		if role == lock.Stub {
			f.in.StubDeb, f.in.StubSHA256 = file, p.SHA256
		} else {
			f.in.KernelDeb, f.in.KernelSHA256 = file, p.SHA256
		}
	}
	return nil
}

func lockCommand() *cobra.Command {
	var file, cache, profileName string
	var renew, renewGone bool
	cmd := &cobra.Command{
		Use:   "lock --lock FILE [--profile NAME] [--cache DIR] [--renew | --renew-gone]",
		Short: "find, download and pin the packages that an image is made of",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cache == "" {
				cache = filepath.Dir(file)
			}
			p, err := profile.Named(profileName)
			if err != nil {
				return err
			}
			l := lock.Locker{Run: lock.RunCommand, Cache: cache, Progress: progress}
			for _, role := range p.Roles() {
				deb, _, err := l.Package(cmd.Context(), file, role, renew)
				if renewGone && errors.Is(err, lock.ErrGone) {
					progress("%v", err)
					deb, _, err = l.Package(cmd.Context(), file, role, true)
				}
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), deb)
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&file, "lock", "", "lock file")
	fl.StringVar(&cache, "cache", "", "directory for the package; default: that of the lock file")
	fl.StringVar(&profileName, "profile", "dev", "whose packages")
	fl.BoolVar(&renew, "renew", false, "take the current package even if another is locked")
	fl.BoolVar(&renewGone, "renew-gone", false, "take the current package if the locked one has left the archive; never because its bytes differ")
	must(cmd.MarkFlagRequired("lock"))
	return cmd
}

func profilesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "profiles [NAME]",
		Short: "list the profiles, or print one with all that it inherits",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				all, err := profile.All()
				if err != nil {
					return err
				}
				for _, p := range all {
					fmt.Fprintf(cmd.OutOrStdout(), "%-14s %s\n", p.Name, p.Purpose)
				}
				return nil
			}
			return dumpProfile(cmd, args[0])
		},
	}
}

func dumpProfile(cmd *cobra.Command, name string) error {
	p, err := profile.Named(name)
	if err != nil {
		return err
	}
	text, err := p.Dump()
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(text)
	return err
}
