// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"cocoon/trustee/admin"
	"cocoon/trustee/kbs"
	"cocoon/trustee/pki"
	"cocoon/trustee/rvps/signer"
	"cocoon/trustee/server"
	"cocoon/trustee/store/vault"
	"cocoon/trustee/verify"
	"cocoon/trustee/verify/snp"
	"cocoon/trustee/verify/tdx"
)

func (a *app) initCommand() *cobra.Command {
	var hosts []string
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Make the folder of a broker with fresh keys and certificates",
		Args:  cobra.ExactArgs(1),
		RunE: a.do(func(_ context.Context, args []string) error {
			if err := pki.Init(args[0], pki.Config{Hosts: hosts, Now: time.Now}); err != nil {
				return err
			}
			_, err := fmt.Fprintf(a.out, "made %s: guests need %s; keep %s and %s where only you can read them\n", args[0], pki.CACert, pki.AdminKey, pki.CAKey)
			return err
		}),
	}
	c.Flags().StringSliceVar(&hosts, "host", []string{"localhost", "127.0.0.1", "::1"}, "names and addresses under which guests reach the broker")
	return c
}

func (a *app) serveCommand() *cobra.Command {
	var cfg server.Config
	var on addresses
	var level, signers string
	evidence := verify.Config{}
	var secrets vault.Config
	c := &cobra.Command{
		Use:   "serve --dir DIR",
		Short: "Run the broker over a folder made by init",
		Args:  cobra.NoArgs,
		RunE: a.do(func(ctx context.Context, _ []string) error {
			var err error
			if evidence.SNPCerts == "" {
				evidence.SNPCerts = filepath.Join(cfg.Dir, "snp-certs")
			}
			if cfg.Verifiers, err = verify.New(evidence); err != nil {
				return err
			}
			if signers != "" {
				if cfg.Signers, err = signer.Load(signers); err != nil {
					return err
				}
			}
			if secrets.Address == "" {
				return a.serve(ctx, cfg, on, level)
			}
			return withVault(ctx, secrets, func(r kbs.Resources) error {
				cfg.Resources = r
				return a.serve(ctx, cfg, on, level)
			})
		}),
	}
	f := c.Flags()
	f.StringVar(&cfg.Dir, "dir", "", "folder of the broker (required)")
	f.StringVar(&on.broker, "listen", "127.0.0.1:8080", "address to listen on; port 0 picks a free one")
	f.StringVar(&on.rest, "as-listen", "", "address to serve the attestation service to other relying parties on, by REST")
	f.StringVar(&on.grpc, "as-grpc-listen", "", "the same, by gRPC")
	f.BoolVar(&cfg.AllowSample, "allow-sample", false, "accept guests without a TEE, for tests: their evidence proves nothing")
	f.StringVar(&evidence.SNPCerts, "snp-certs", "", "folder of AMD processors' certificates (default snp-certs in --dir)")
	f.StringVar(&evidence.SNPKeyService, "snp-kds", snp.DefaultKDS, "AMD's key service or a mirror of it; empty works offline, from --snp-certs")
	f.StringVar(&evidence.TDXCollateral, "tdx-collateral", "", "folder of Intel's collateral, looked at before --tdx-pcs")
	f.StringVar(&evidence.CSVCerts, "csv-certs", "", "folder of Hygon's certificates, <serial number>/hsk_cek.cert, looked at before --csv-kds")
	f.StringVar(&evidence.CSVService, "csv-kds", "", "Hygon's service for certificates, such as https://cert.hygon.cn; empty asks nobody")
	f.StringVar(&evidence.TPMKeys, "tpm-keys", "", "folder of the attestation keys (*.pub) of plain TPMs that are trusted; none are without")
	f.StringVar(&evidence.CCAAnchors, "cca-anchors", "", "JSON file of the platforms of Arm CCA that are trusted; none are without")
	f.StringVar(&evidence.TDXService, "tdx-pcs", tdx.DefaultPCS, "Intel's certification service or a cache of it; empty works offline")
	f.StringSliceVar(&cfg.TrustedTokens, "trust-tokens", nil, "PEM certificates of further attestation services whose tokens count")
	f.StringVar(&signers, "reference-signers", "", "folder of PEM public keys: CoRIM and in-toto reference values need a signature by one of them")
	f.StringVar(&cfg.CertFile, "cert", "", "server certificate in PEM, instead of the folder's")
	f.StringVar(&cfg.KeyFile, "key", "", "key of --cert in PEM")
	vaultFlags(f, &secrets)
	seFlags(f, &evidence.SE)
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.MarkFlagsRequiredTogether("cert", "key")
	c.MarkFlagsRequiredTogether("vault-addr", "vault-token-file")
	c.MarkFlagsRequiredTogether("se-host-keys", "se-certs", "se-root-ca", "se-crls", "se-headers")
	return required(c, "dir")
}

// addresses are where to listen; what is empty is not served.
type addresses struct{ broker, rest, grpc string }

// listen opens what the addresses name, or nothing.
func (on addresses) listen(ctx context.Context) (l server.Listeners, err error) {
	if on == (addresses{}) {
		return l, errors.New("no address to listen on")
	}
	for _, x := range []struct {
		to   *net.Listener
		addr string
	}{{&l.Broker, on.broker}, {&l.REST, on.rest}, {&l.GRPC, on.grpc}} {
		if x.addr == "" {
			continue
		}
		opened, err := (&net.ListenConfig{}).Listen(ctx, "tcp", x.addr)
		if err != nil {
			return l, errors.Join(fmt.Errorf("listen: %w", err), closeAll(l))
		}
		*x.to = opened
	}
	return l, nil
}

func closeAll(l server.Listeners) error {
	var errs []error
	for _, x := range []net.Listener{l.Broker, l.REST, l.GRPC} {
		if x != nil {
			errs = append(errs, x.Close())
		}
	}
	return errors.Join(errs...)
}

// announce tells where the broker listens, for people and for scripts.
func (a *app) announce(l server.Listeners) error {
	for _, x := range []struct {
		l    net.Listener
		what string
	}{{l.Broker, ""}, {l.REST, "attestation service "}, {l.GRPC, "attestation service by gRPC "}} {
		if x.l == nil {
			continue
		}
		if _, err := fmt.Fprintf(a.out, "%slistening on https://%s\n", x.what, x.l.Addr()); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) serve(ctx context.Context, cfg server.Config, on addresses, level string) (err error) {
	var min slog.Level
	if err := min.UnmarshalText([]byte(level)); err != nil {
		return fmt.Errorf("log level: %w", err)
	}
	cfg.Log = slog.New(slog.NewTextHandler(a.errs, &slog.HandlerOptions{Level: min}))
	s, err := server.New(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	l, err := on.listen(ctx)
	if err != nil {
		return err
	}
	if cfg.AllowSample {
		cfg.Log.Warn("sample evidence is accepted: any client can claim any measurement")
	}
	if err := a.announce(l); err != nil {
		return errors.Join(err, closeAll(l))
	}
	return s.ServeAll(ctx, l)
}

func (a *app) adminTokenCommand() *cobra.Command {
	var keyFile string
	var life time.Duration
	c := &cobra.Command{
		Use:   "admin-token --admin-key FILE",
		Short: "Print a bearer token for administration by other tools",
		Args:  cobra.NoArgs,
		RunE: a.do(func(context.Context, []string) error {
			raw, err := os.ReadFile(keyFile)
			if err != nil {
				return fmt.Errorf("read admin key: %w", err)
			}
			key, err := admin.ParsePrivateKey(raw)
			if err != nil {
				return err
			}
			if life <= 0 {
				return fmt.Errorf("life %s is not positive", life)
			}
			t, err := admin.NewToken(key, time.Now(), life)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.out, t)
			return err
		}),
	}
	c.Flags().StringVar(&keyFile, "admin-key", "", "the operator's Ed25519 key in PEM (required)")
	c.Flags().DurationVar(&life, "life", time.Hour, "how long the token is valid")
	return required(c, "admin-key")
}
