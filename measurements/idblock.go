// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/measurements/predict"
	"cocoon/measurements/report"
	"cocoon/measurements/snp"
)

// noKey is in the place of a file where nobody is to hold the key.
const noKey = "none"

type idBlockFlags struct {
	launchFlags
	processorFlags
	cpus              int
	idKey, authorKey  string
	familyID, imageID string
	svn               uint32
	policy            uint64
	format            string
}

// idBlock is what the command prints.
type idBlock struct {
	Launch string `json:"launch"`
	Digest string `json:"launch_digest"`
	// Block and Auth are base64, as the shim and QEMU take them.
	Block  string `json:"id_block"`
	Auth   string `json:"id_auth"`
	Policy uint64 `json:"policy"`
	// IDKeyDigest and AuthorKeyDigest are what a report says of the keys.
	IDKeyDigest     string `json:"id_key_digest"`
	AuthorKeyDigest string `json:"author_key_digest,omitempty"`
}

func idBlockCommand() *cobra.Command {
	var f idBlockFlags
	c := &cobra.Command{
		Use:   "idblock IMAGE --firmware FILE --shim {go|rs} --vcpus N --id-key {FILE|none}",
		Short: "ID block of AMD SEV-SNP: the processor starts no other guest with it",
		Long: "Prints the ID block and its authentication for one launch of an image, as kata and QEMU take them. The key is P-384 in PEM;\n" +
			"with none, the block is signed by a key that nobody holds and that another block does not share.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := map[string]func(io.Writer, *idBlock) error{
				"toml": writeIDBlock, "json": func(w io.Writer, b *idBlock) error { return report.Encode(w, b) },
			}[f.format]
			if !ok {
				return fmt.Errorf("%w: --format %.20q, want toml or json", errFlags, f.format)
			}
			b, err := f.block(args[0])
			if err != nil {
				return err
			}
			return write(cmd.OutOrStdout(), b)
		},
	}
	fl := c.Flags()
	f.addLaunch(fl)
	f.processorFlags.add(c)
	fl.IntVar(&f.cpus, "vcpus", 1, "the number of processors: a block is good for one")
	fl.StringVar(&f.idKey, "id-key", "", "private key that signs the block, or none (required)")
	fl.StringVar(&f.authorKey, "author-key", "", "private key that signs the ID key")
	fl.StringVar(&f.familyID, "family-id", "", "16 bytes in hexadecimal that the report will hold; default: zeros")
	fl.StringVar(&f.imageID, "image-id", "", "16 bytes in hexadecimal that the report will hold; default: zeros")
	fl.Uint32Var(&f.svn, "svn", 0, "security version of the guest that the report will hold")
	fl.Uint64Var(&f.policy, "policy", snp.DefaultPolicy, "guest policy of the launch")
	fl.StringVar(&f.format, "format", "toml", "toml: for the configuration of kata; or json")
	return c
}

// block makes the block of the one launch that the flags leave.
func (f *idBlockFlags) block(dir string) (*idBlock, error) {
	r, err := f.only(dir)
	if err != nil {
		return nil, err
	}
	digest, err := hex.DecodeString(r.Values[0].Value)
	if err != nil {
		return nil, err
	}
	b := snp.IDBlock{LaunchDigest: snp.Digest(digest), GuestSVN: f.svn, Policy: f.policy}
	err = errors.Join(setID(&b.FamilyID, "--family-id", f.familyID), setID(&b.ImageID, "--image-id", f.imageID))
	if err != nil {
		return nil, err
	}
	out := &idBlock{
		Launch: fmt.Sprintf("%d processors, shim %s", f.cpus, r.Shim), Digest: r.Values[0].Value,
		Block: base64.StdEncoding.EncodeToString(b.Bytes()), Policy: f.policy,
	}
	return out, f.authenticate(out, b)
}

// only predicts the launch, which has to be a single one.
func (f *idBlockFlags) only(dir string) (*predict.Result, error) {
	if len(f.launch.Shims) != 1 && f.launch.Cmdline == "" || len(f.features) != 1 {
		return nil, fmt.Errorf("%w: a block is good for one launch: name one --shim, or --cmdline, and one set of --features", errFlags)
	}
	if f.idKey == "" {
		return nil, fmt.Errorf("%w: --id-key is required, a file or none", errFlags)
	}
	g, err := f.open(dir, "snp")
	if err != nil {
		return nil, err
	}
	o := predict.SNP{Launch: f.launch, VCPUs: f.cpus}
	if err := f.apply(&o); err != nil {
		return nil, err
	}
	all, err := g.SNP(o)
	if err != nil {
		return nil, err
	}
	return &all[len(all)-1], nil
}

// authenticate signs the block.
func (f *idBlockFlags) authenticate(out *idBlock, b snp.IDBlock) error {
	if f.idKey == noKey {
		if f.authorKey != "" {
			return fmt.Errorf("%w: --author-key vouches for a key that somebody holds, not for none", errFlags)
		}
		auth, key, err := snp.AuthWithoutKey(b)
		if err != nil {
			return err
		}
		out.Auth = base64.StdEncoding.EncodeToString(auth)
		return keyDigest(&out.IDKeyDigest, key)
	}
	id, err := privateKey(f.idKey)
	if err != nil {
		return err
	}
	var author *ecdsa.PrivateKey
	if f.authorKey != "" {
		if author, err = privateKey(f.authorKey); err != nil {
			return err
		}
		if err := keyDigest(&out.AuthorKeyDigest, &author.PublicKey); err != nil {
			return fmt.Errorf("author key %q: %w", f.authorKey, err)
		}
	}
	if err := keyDigest(&out.IDKeyDigest, &id.PublicKey); err != nil {
		return fmt.Errorf("ID key %q: %w", f.idKey, err)
	}
	auth, err := snp.Auth(b, id, author)
	out.Auth = base64.StdEncoding.EncodeToString(auth)
	return err
}

func keyDigest(to *string, key *ecdsa.PublicKey) error {
	d, err := snp.KeyDigest(key)
	*to = hex.EncodeToString(d[:])
	return err
}

func setID(to *[16]byte, flag, text string) error {
	if text == "" {
		return nil
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(to) {
		return fmt.Errorf("%w: %s %.40q is not 16 bytes in hexadecimal", errFlags, flag, text)
	}
	copy(to[:], b)
	return nil
}

// writeIDBlock prints a drop-in for kata's configuration.
func writeIDBlock(w io.Writer, b *idBlock) error {
	var s strings.Builder
	fmt.Fprintf(&s, "# %s: launch digest\n# %s\n", b.Launch, b.Digest)
	fmt.Fprintf(&s, "# digest of the ID key\n# %s\n", b.IDKeyDigest)
	if b.AuthorKeyDigest != "" {
		fmt.Fprintf(&s, "# digest of the author key\n# %s\n", b.AuthorKeyDigest)
	}
	fmt.Fprintf(&s, "[hypervisor.qemu]\nsnp_id_block = %q\nsnp_id_auth = %q\nsnp_guest_policy = %d\n", b.Block, b.Auth, b.Policy)
	_, err := io.WriteString(w, s.String())
	return err
}
