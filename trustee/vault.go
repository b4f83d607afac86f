// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"github.com/spf13/pflag"

	"cocoon/trustee/kbs"
	"cocoon/trustee/store/vault"
)

func vaultFlags(f *pflag.FlagSet, c *vault.Config) {
	f.StringVar(&c.Address, "vault-addr", "", "keep secrets in the Vault or OpenBao at this address instead of in --dir")
	f.StringVar(&c.TokenFile, "vault-token-file", "", "file with the broker's token for it, read at each call")
	f.StringVar(&c.Mount, "vault-mount", "secret", "path of its key-value engine")
	f.IntVar(&c.Version, "vault-kv", 2, "version of that engine, 1 or 2")
	f.StringVar(&c.Prefix, "vault-prefix", "", "path below which all secrets are")
	f.StringVar(&c.Namespace, "vault-namespace", "", "namespace of an enterprise installation")
	f.StringVar(&c.CAFile, "vault-ca", "", "PEM roots to trust for it, instead of the machine's")
}

// withVault runs serve with secrets in a Vault, once that was seen to be what
// the settings say.
func withVault(ctx context.Context, c vault.Config, serve func(kbs.Resources) error) (err error) {
	r, err := vault.New(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := r.Check(ctx); err != nil {
		return err
	}
	return serve(r)
}
