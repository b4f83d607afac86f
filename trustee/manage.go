// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"cocoon/internal/bounded"
	"cocoon/trustee/admin"
	"cocoon/trustee/store"
)

// remote are the flags of every administration command.
type remote struct {
	url, caFile, keyFile string
}

// command adds the flags of the connection to c.
func (r *remote) command(c *cobra.Command) *cobra.Command {
	f := c.Flags()
	f.StringVar(&r.url, "url", "https://127.0.0.1:8080", "the broker")
	f.StringVar(&r.caFile, "ca", "", "PEM certificate that the broker's must come from (required)")
	f.StringVar(&r.keyFile, "admin-key", "", "the operator's Ed25519 key in PEM (required)")
	return required(c, "ca", "admin-key")
}

func (r *remote) client() (*admin.Client, error) {
	ca, err := os.ReadFile(r.caFile)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	raw, err := os.ReadFile(r.keyFile)
	if err != nil {
		return nil, fmt.Errorf("read admin key: %w", err)
	}
	key, err := admin.ParsePrivateKey(raw)
	if err != nil {
		return nil, err
	}
	return admin.NewClient(admin.ClientConfig{URL: r.url, CA: ca, Key: key})
}

type remoteAction func(ctx context.Context, c *admin.Client, args []string) error

// call runs f with a client of the broker that the flags name.
func (a *app) call(r *remote, f remoteAction) func(*cobra.Command, []string) error {
	return a.do(func(ctx context.Context, args []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		defer c.Close()
		return f(ctx, c, args)
	})
}

// input reads a file, or standard input for "-".
func (a *app) input(file string) ([]byte, error) {
	if file == "-" {
		raw, err := bounded.ReadAll(a.in, store.MaxResource)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return raw, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	raw, err := bounded.ReadAll(f, store.MaxResource)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", file, err)
	}
	return raw, nil
}

func (a *app) resourceCommand() *cobra.Command {
	return group("resource", "Manage secrets", a.resourceSet(), a.resourceGet(), a.resourceDelete(), a.resourceList())
}

func (a *app) resourceSet() *cobra.Command {
	r, file := &remote{}, ""
	c := &cobra.Command{
		Use: "set REPOSITORY/TYPE/TAG --file FILE", Short: "Store a secret", Args: cobra.ExactArgs(1),
		RunE: a.call(r, func(ctx context.Context, c *admin.Client, args []string) error {
			raw, err := a.input(file)
			if err != nil {
				return err
			}
			return c.SetResource(ctx, args[0], raw)
		}),
	}
	c.Flags().StringVar(&file, "file", "", "file with the secret, - for standard input (required)")
	return required(r.command(c), "file")
}

func (a *app) resourceGet() *cobra.Command {
	r := &remote{}
	return r.command(&cobra.Command{
		Use: "get REPOSITORY/TYPE/TAG", Short: "Print a secret", Args: cobra.ExactArgs(1),
		RunE: a.call(r, func(ctx context.Context, c *admin.Client, args []string) error {
			raw, err := c.Resource(ctx, args[0])
			if err != nil {
				return err
			}
			_, err = a.out.Write(raw)
			return err
		}),
	})
}

func (a *app) resourceDelete() *cobra.Command {
	r := &remote{}
	return r.command(&cobra.Command{
		Use: "delete REPOSITORY/TYPE/TAG", Short: "Remove a secret", Args: cobra.ExactArgs(1),
		RunE: a.call(r, func(ctx context.Context, c *admin.Client, args []string) error {
			return c.DeleteResource(ctx, args[0])
		}),
	})
}

func (a *app) resourceList() *cobra.Command {
	r := &remote{}
	return r.command(&cobra.Command{
		Use: "list", Short: "Print the names of all secrets", Args: cobra.NoArgs,
		RunE: a.call(r, func(ctx context.Context, c *admin.Client, _ []string) error {
			names, err := c.Resources(ctx)
			if err != nil {
				return err
			}
			for _, n := range names {
				if _, err := fmt.Fprintln(a.out, n); err != nil {
					return err
				}
			}
			return nil
		}),
	})
}

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Manage policies", a.policySet(), a.policyGet())
}

// policyKind admits the two kinds of policies.
func policyKind(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(cmd, args); err != nil {
		return err
	}
	if args[0] != "resource" && args[0] != "attestation" {
		return fmt.Errorf("policy %q, want resource or attestation", args[0])
	}
	return nil
}

func (a *app) policySet() *cobra.Command {
	r, file, id := &remote{}, "", ""
	c := &cobra.Command{
		Use: "set resource|attestation --file FILE", Short: "Replace a policy", Args: policyKind,
		RunE: a.call(r, func(ctx context.Context, c *admin.Client, args []string) error {
			raw, err := a.input(file)
			if err != nil {
				return err
			}
			if args[0] == "resource" {
				return c.SetResourcePolicy(ctx, string(raw))
			}
			return c.SetAttestationPolicy(ctx, id, string(raw))
		}),
	}
	c.Flags().StringVar(&file, "file", "", "file with the Rego text, - for standard input (required)")
	c.Flags().StringVar(&id, "id", "default_cpu", "which attestation policy")
	return required(r.command(c), "file")
}

func (a *app) policyGet() *cobra.Command {
	r, id := &remote{}, ""
	c := &cobra.Command{
		Use: "get resource|attestation", Short: "Print a policy", Args: policyKind,
		RunE: a.call(r, func(ctx context.Context, c *admin.Client, args []string) error {
			var text string
			var err error
			if args[0] == "resource" {
				text, err = c.ResourcePolicy(ctx)
			} else {
				text, err = c.AttestationPolicy(ctx, id)
			}
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.out, text)
			return err
		}),
	}
	c.Flags().StringVar(&id, "id", "default_cpu", "which attestation policy")
	return r.command(c)
}
