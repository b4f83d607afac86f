// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"cocoon/trustee/admin"
	"cocoon/trustee/rvps"
)

func (a *app) referenceCommand() *cobra.Command {
	return group("reference", "Manage reference values", a.referenceSet(), a.referenceImport(), a.referenceGet(), a.referenceList(), a.referenceDelete())
}

func (a *app) referenceSet() *cobra.Command {
	r, file, life := &remote{}, "", time.Duration(0)
	c := &cobra.Command{
		Use:     "set NAME JSON | set --file FILE",
		Short:   "Register one reference value, or those of a JSON object",
		Example: `  trustee reference set launch_digest '["abcde"]'`,
		Args: func(_ *cobra.Command, args []string) error {
			if (file == "") != (len(args) == 2) || file != "" && len(args) != 0 {
				return errors.New("want a name and its value in JSON, or --file")
			}
			return nil
		},
		RunE: a.call(r, func(ctx context.Context, c *admin.Client, args []string) error {
			values, err := a.values(file, args)
			if err != nil {
				return err
			}
			var expires time.Time
			if life != 0 {
				expires = time.Now().Add(life)
			}
			message, err := rvps.NewMessage(values, expires)
			if err != nil {
				return err
			}
			return c.RegisterReferenceValues(ctx, message)
		}),
	}
	c.Flags().StringVar(&file, "file", "", "file with a JSON object of names and values, - for standard input")
	c.Flags().DurationVar(&life, "life", 0, "how long the values are valid; without it the broker decides")
	return r.command(c)
}

func (a *app) values(file string, args []string) (map[string]any, error) {
	if file == "" {
		if !json.Valid([]byte(args[1])) {
			return nil, fmt.Errorf("value of %q is no JSON: write strings as '\"text\"' and lists as '[\"text\"]'", args[0])
		}
		return map[string]any{args[0]: json.RawMessage(args[1])}, nil
	}
	raw, err := a.input(file)
	if err != nil {
		return nil, err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, fmt.Errorf("parse %q: %w", file, err)
	}
	values := make(map[string]any, len(object))
	for name, v := range object {
		values[name] = v
	}
	return values, nil
}

func (a *app) referenceList() *cobra.Command {
	r := &remote{}
	return r.command(&cobra.Command{
		Use: "list", Short: "Print all reference values with their expirations and signers", Args: cobra.NoArgs,
		RunE: a.call(r, func(ctx context.Context, c *admin.Client, _ []string) error {
			values, err := c.ReferenceValues(ctx)
			if err != nil {
				return err
			}
			for _, v := range values {
				if _, err := fmt.Fprintf(a.out, "%s\t%s\t%s\t%s\n", v.Name, v.Expiration.Format(time.RFC3339), v.Value, signedBy(v)); err != nil {
					return err
				}
			}
			return nil
		}),
	})
}

// signedBy tells who vouched for a value, and what policies make of an old one.
func signedBy(v admin.ReferenceValue) string {
	text := "unsigned"
	if v.Signer != "" {
		text = "signed by " + v.Signer
	}
	if !time.Now().Before(v.Expiration) {
		text += ", expired"
	}
	return text
}

// oneName admits the name of a single value.
func oneName(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(cmd, args); err != nil {
		return err
	}
	return rvps.CheckName(args[0])
}

func (a *app) referenceGet() *cobra.Command {
	r := &remote{}
	return r.command(&cobra.Command{
		Use: "get NAME", Short: "Print a reference value as policies see it", Args: oneName,
		RunE: a.call(r, func(ctx context.Context, c *admin.Client, args []string) error {
			raw, err := c.ReferenceValue(ctx, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "%s\n", raw)
			return err
		}),
	})
}

func (a *app) referenceImport() *cobra.Command {
	r, kind := &remote{}, ""
	c := &cobra.Command{
		Use: "import FILE --type corim|in-toto", Short: "Register the reference values of a file as its author made it", Args: cobra.ExactArgs(1),
		RunE: a.call(r, func(ctx context.Context, c *admin.Client, args []string) error {
			raw, err := a.input(args[0])
			if err != nil {
				return err
			}
			message, err := rvps.NewSignedMessage(kind, raw)
			if err != nil {
				return err
			}
			if err := c.RegisterReferenceValues(ctx, message); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "registered the reference values of %s\n", args[0])
			return err
		}),
	}
	c.Flags().StringVar(&kind, "type", "", "corim or in-toto (required)")
	return required(r.command(c), "type")
}

func (a *app) referenceDelete() *cobra.Command {
	r := &remote{}
	return r.command(&cobra.Command{
		Use: "delete NAME", Short: "Remove a reference value", Args: oneName,
		RunE: a.call(r, func(ctx context.Context, c *admin.Client, args []string) error {
			return c.DeleteReferenceValue(ctx, args[0])
		}),
	})
}
