// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cocoon/mkimage/image"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/pvimg"
	"cocoon/mkimage/release"
)

// sealFlags are those that make an image for Secure Execution of its parts.
func sealFlags(fl *pflag.FlagSet, o *pvimg.Options) {
	fl.StringArrayVarP(&o.HostKeys, "host-key-document", "k", nil, "document of a machine that may run the image, for profile se; may be repeated")
	fl.StringArrayVarP(&o.Certs, "cert", "C", nil, "certificate by which host key documents are verified; may be repeated")
	fl.StringArrayVar(&o.CRLs, "crl", nil, "revocation list for those; may be repeated")
	fl.StringVar(&o.RootCA, "root-ca", "", "root of the certificates; default: the system's")
	fl.BoolVar(&o.Offline, "offline", false, "take no revocation lists but those of --crl")
	fl.BoolVar(&o.NoVerify, "se-no-verify", false, "do not verify host key documents: a forged one gives the image's keys to a stranger")
	fl.StringVar(&o.CommKey, "cck", "", "file with the customer communication key, 32 bytes; default: random")
	fl.StringVar(&o.HeaderKey, "hdr-key", "", "file with the key of the header, 32 bytes; default: random")
	fl.StringVar(&o.ImageKey, "image-key", "", "file with the key of the image, 64 bytes; default: random")
}

func sealCommand() *cobra.Command {
	var o pvimg.Options
	var made string
	cmd := &cobra.Command{
		Use:   "seal DIR {--host-key-document FILE --cert FILE | --image FILE}",
		Short: "make an image for Secure Execution of the parts that build made",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if made != "" {
				if o.Any() {
					return fmt.Errorf("%w: --image is already made", image.ErrInput)
				}
				return refer(cmd, args[0], "")(image.Seal(cmd.Context(), args[0], copyOf(made), progress))
			}
			if err := o.Check(); err != nil {
				return err
			}
			return refer(cmd, args[0], "")(sealDir(cmd.Context(), args[0], &o))
		},
	}
	sealFlags(cmd.Flags(), &o)
	cmd.Flags().StringVar(&made, "image", "", "an image that pvimg has already made of the parts")
	return cmd
}

// refer writes the reference values of an image, and reports it.
func refer(cmd *cobra.Command, dir, firmware string) func(*manifest.Manifest, error) error {
	return func(m *manifest.Manifest, err error) error {
		if err == nil {
			err = writeReferences(dir, firmware, m)
		}
		return report(cmd)(m, err)
	}
}

// report prints the outputs of an image.
func report(cmd *cobra.Command) func(*manifest.Manifest, error) error {
	return func(m *manifest.Manifest, err error) error {
		if err != nil {
			return err
		}
		for _, o := range m.Outputs {
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", o.SHA256, o.File)
		}
		return nil
	}
}

// sealDir has the image made by the tool of this machine.
func sealDir(ctx context.Context, dir string, o *pvimg.Options) (*manifest.Manifest, error) {
	tool, err := pvimg.Find(exec.LookPath)
	if err != nil {
		return nil, err
	}
	return image.Seal(ctx, dir, func(ctx context.Context, p pvimg.Parts, out string) error { return tool.Create(ctx, o, p, out) }, progress)
}

// copyOf is for an image that is already there.
func copyOf(file string) func(context.Context, pvimg.Parts, string) error {
	return func(_ context.Context, _ pvimg.Parts, out string) (err error) {
		from, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("take the image: %w", err)
		}
		defer func() { err = errors.Join(err, from.Close()) }()
		to, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return fmt.Errorf("take the image: %w", err)
		}
		_, err = io.Copy(to, io.LimitReader(from, image.MaxSE+1))
		return errors.Join(err, to.Close())
	}
}

// checkSeal refuses what sealBuilt could not do, before anything is built.
func checkSeal(p profile.Profile, o *pvimg.Options) error {
	switch {
	case !o.Any():
		return nil
	case p.Layout != profile.SecureExecution:
		return fmt.Errorf("%w: profile %q takes no host key documents", image.ErrInput, p.Name)
	}
	return o.Check()
}

// sealBuilt makes an image of the parts that were built, if it was told for whom.
func sealBuilt(cmd *cobra.Command, dir string, m *manifest.Manifest, o *pvimg.Options) (*manifest.Manifest, error) {
	if !o.Any() {
		progress("these are the parts of an image; %s tells how to make it", release.SealFile)
		return m, nil
	}
	m, err := sealDir(cmd.Context(), dir, o)
	if err != nil {
		return nil, fmt.Errorf("the parts are in %q, see %s there: %w", dir, release.SealFile, err)
	}
	return m, nil
}

// inspectHeader prints what can be read of a header without a key.
func inspectHeader(out io.Writer, dir string, m *manifest.Manifest) error {
	if m.Layout != string(profile.SecureExecution) {
		return nil
	}
	h, err := image.SEHeader(dir, m)
	if errors.Is(err, image.ErrUnsealed) {
		fmt.Fprintln(out, err)
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "tag %x, %d pages\n", h.Tag, h.Pages)
	for _, k := range h.HostKeys {
		fmt.Fprintf(out, "for host key %x\n", k)
	}
	return nil
}
