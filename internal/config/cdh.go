// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/BurntSushi/toml"

	"cocoon/internal/config/shallow"
)

// The names of the broker clients.
const (
	KBCRemote  = "cc_kbc"         // a key broker over HTTP
	KBCOffline = "offline_fs_kbc" // files of the image, for tests
)

// Default addresses and folders of the data hub.
const (
	DefaultCDHSocket = "unix:///run/confidential-containers/cdh.sock"
	DefaultAASocket  = "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock"
	DefaultImageDir  = "/run/kata-containers/image/"
)

// CDH holds the settings of the confidential data hub.
type CDH struct {
	Socket                       string
	SkipSealedSecretVerification bool
	AASocket                     string
	KBC                          KBC
	Credentials                  []Credential
	Image                        Image
}

// KBC names the key broker.
type KBC struct {
	Name string
	// URL is the base URL of the broker, without a trailing slash.
	URL string
	// Cert is PEM text of additional trusted roots, or empty.
	Cert string
}

// Credential is a resource that is fetched to a file at start.
type Credential struct {
	Path        string `toml:"path"`
	ResourceURI string `toml:"resource_uri"`
}

// Image holds the settings of the image puller. Of a value that was given both
// inline and as a URI, only the one that wins is set.
type Image struct {
	WorkDir                string    `toml:"work_dir"`
	MaxConcurrentDownloads int       `toml:"max_concurrent_layer_downloads_per_image"`
	SecurityPolicyURI      string    `toml:"image_security_policy_uri"`
	SecurityPolicy         string    `toml:"image_security_policy"`
	SigstoreConfigURI      string    `toml:"sigstore_config_uri"`
	SigstoreConfig         string    `toml:"sigstore_config"`
	RegistryAuthURI        string    `toml:"authenticated_registry_credentials_uri"`
	RegistryConfigURI      string    `toml:"registry_configuration_uri"`
	RegistryConfig         []byte    `toml:"-"` // TOML text of the inline table
	Proxy                  ProxyHost `toml:"image_pull_proxy"`
	ExtraRoots             []string  `toml:"extra_root_certificates"` // PEM
}

// ProxyHost names the proxies for image pulls, in the usual notation.
type ProxyHost struct {
	HTTPS string `toml:"https_proxy"`
	HTTP  string `toml:"http_proxy"`
	No    string `toml:"no_proxy"`
}

type cdhFile struct {
	Socket string `toml:"socket"`
	Skip   bool   `toml:"skip_sealed_secret_verification"`
	AA     struct {
		Socket string `toml:"aa_socket"`
	} `toml:"aa"`
	KBC struct {
		Name string `toml:"name"`
		URL  string `toml:"url"`
		Cert string `toml:"kbs_cert"`
	} `toml:"kbc"`
	Credentials []Credential `toml:"credentials"`
	Log         struct {
		Level string `toml:"level"`
	} `toml:"log"`
	Image imageFile `toml:"image"`
}

type imageFile struct {
	Image
	RegistryConfig map[string]any `toml:"registry_config"`
}

func defaultCDH() CDH {
	return CDH{
		Socket:   DefaultCDHSocket,
		AASocket: DefaultAASocket,
		KBC:      KBC{Name: KBCOffline},
		Image:    defaultImage(),
	}
}

func defaultImage() Image {
	return Image{WorkDir: DefaultImageDir, MaxConcurrentDownloads: 3}
}

// cdh applies cdh.toml, or in its place the words of the command line.
func (b *builder) cdh() error {
	b.cfg.CDH = defaultCDH()
	imageTable := false
	if b.in.CDH != nil {
		var err error
		if imageTable, err = b.cdhFile(b.in.CDH); err != nil {
			return fmt.Errorf("parse %s: %w", b.in.CDH.From, err)
		}
	} else if err := errors.Join(b.kbcWord(), b.kbcOfAA()); err != nil {
		return err
	}
	if !imageTable {
		if err := b.imageWords(); err != nil {
			return err
		}
	}
	if err := b.resourceWord(); err != nil {
		return err
	}
	image := &b.cfg.CDH.Image
	if image.RegistryAuthURI == "" && b.in.RegistryAuth != "" {
		image.RegistryAuthURI = b.in.RegistryAuth
		b.cfg.origin["cdh.image.authenticated_registry_credentials_uri"] = FromLaunch
	}
	return nil
}

// cdhFile reports whether the file has an [image] table, which switches the
// image parameters of the command line off even when it is empty.
func (b *builder) cdhFile(f *File) (imageTable bool, err error) {
	file := cdhFile{Image: imageFile{Image: defaultImage()}}
	md, err := shallow.Decode(f.Data, MaxTOML, &file)
	if err != nil {
		return false, err
	}
	for _, k := range md.Undecoded() {
		b.warn(f.From, k.String())
	}
	for _, k := range md.Keys() {
		// A table says nothing of the keys that it does not have.
		if md.Type(k...) != "Hash" {
			b.cfg.origin["cdh."+k.String()] = f.From
		}
	}
	c := &b.cfg.CDH
	c.Socket, c.AASocket = orDefault(file.Socket, c.Socket), orDefault(file.AA.Socket, c.AASocket)
	for _, s := range []string{c.Socket, c.AASocket} {
		if a, err := ParseAddress(s); err != nil || a.Network != "unix" {
			return false, fmt.Errorf("socket %.100q: %w", s, ErrValue)
		}
	}
	c.SkipSealedSecretVerification, c.Credentials = file.Skip, file.Credentials
	c.KBC = KBC(file.KBC)
	if err := c.KBC.normalize(); err != nil {
		return false, err
	}
	if c.Image, err = file.Image.image(); err != nil {
		return false, err
	}
	return md.IsDefined("image"), nil
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// normalize checks what the first key request would otherwise trip over.
func (k *KBC) normalize() error {
	if k.Name != KBCRemote && k.Name != KBCOffline {
		return fmt.Errorf("kbc name %.60q is neither %s nor %s: %w", k.Name, KBCRemote, KBCOffline, ErrValue)
	}
	if k.Name == KBCRemote {
		u, err := url.Parse(k.URL)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil {
			return fmt.Errorf("kbc url is not an http or https URL: %w", ErrValue)
		}
	}
	k.URL = strings.TrimRight(k.URL, "/")
	if strings.TrimSpace(k.Cert) == "" {
		k.Cert = ""
		return nil
	}
	if err := checkCerts(k.Cert); err != nil {
		return fmt.Errorf("kbs_cert: %w", err)
	}
	return nil
}

// checkCerts reports whether text is nothing but PEM certificates.
func checkCerts(text string) error {
	rest, n := []byte(text), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if _, err := x509.ParseCertificate(block.Bytes); block.Type != "CERTIFICATE" || err != nil {
			return errors.Join(fmt.Errorf("PEM block %d is not a certificate: %w", n+1, ErrValue), err)
		}
		n++
	}
	if n == 0 {
		return fmt.Errorf("holds no PEM certificate: %w", ErrValue)
	}
	return nil
}

// image applies the precedence among inline values and URIs.
func (f *imageFile) image() (Image, error) {
	i := f.Image
	if i.MaxConcurrentDownloads < 1 {
		return i, fmt.Errorf("max_concurrent_layer_downloads_per_image is below 1: %w", ErrValue)
	}
	if !strings.HasPrefix(i.WorkDir, "/") {
		return i, fmt.Errorf("work_dir is not an absolute path: %w", ErrValue)
	}
	if i.SecurityPolicyURI != "" {
		i.SecurityPolicy = ""
	}
	if i.SigstoreConfigURI != "" {
		i.SigstoreConfig = ""
	}
	if f.RegistryConfig != nil {
		text, err := toml.Marshal(f.RegistryConfig)
		if err != nil {
			return i, fmt.Errorf("registry_config: %w", err)
		}
		i.RegistryConfig, i.RegistryConfigURI = text, ""
	}
	for n, text := range i.ExtraRoots {
		if err := checkCerts(text); err != nil {
			return i, fmt.Errorf("extra_root_certificates[%d]: %w", n, err)
		}
	}
	return i, nil
}

// trusted returns the last value of a word that decides whom the guest trusts.
func (b *builder) trusted(key string) (string, bool, error) {
	v, ok := b.cfg.Cmdline.Value(key)
	if ok && !b.in.CmdlineMeasured {
		return "", false, fmt.Errorf("%s: %w", key, ErrUnmeasured)
	}
	return v, ok, nil
}

// kbcWord reads agent.aa_kbc_params=NAME::URL. Upstream splits at every "::"
// and so cannot express IPv6 addresses.
func (b *builder) kbcWord() error {
	v, ok, err := b.trusted("agent.aa_kbc_params")
	if err != nil || !ok {
		return err
	}
	name, u, ok := strings.Cut(v, "::")
	if !ok {
		return fmt.Errorf("agent.aa_kbc_params=%.100q: no '::' in it: %w", v, ErrValue)
	}
	k := KBC{Name: name, URL: u}
	if err := k.normalize(); err != nil {
		return fmt.Errorf("agent.aa_kbc_params=%.100q: %w", v, err)
	}
	b.cfg.CDH.KBC = k
	b.cfg.origin["cdh.kbc"] = FromCmdline
	return nil
}

// kbcOfAA takes the broker of aa.toml for a data hub that nothing configures:
// an owner who named one for attestation does not mean files of the image.
func (b *builder) kbcOfAA() error {
	if b.in.AA == nil || b.cfg.origin["cdh.kbc"] != "" {
		return nil
	}
	var file struct {
		Tokens struct {
			KBS struct {
				URL  string `toml:"url"`
				Cert string `toml:"cert"`
			} `toml:"kbs"`
		} `toml:"token_configs"`
	}
	if _, err := shallow.Decode(b.in.AA.Data, MaxTOML, &file); err != nil {
		return fmt.Errorf("parse %s: %w", b.in.AA.From, err)
	}
	if file.Tokens.KBS.URL == "" {
		return nil
	}
	k := KBC{Name: KBCRemote, URL: file.Tokens.KBS.URL, Cert: file.Tokens.KBS.Cert}
	if err := k.normalize(); err != nil {
		return fmt.Errorf("token_configs.kbs of %s: %w", b.in.AA.From, err)
	}
	b.cfg.CDH.KBC = k
	b.cfg.origin["cdh.kbc"] = b.in.AA.From
	return nil
}

// imageWords reads the image parameters of the command line.
func (b *builder) imageWords() error {
	i := &b.cfg.CDH.Image
	verify, policy := "", ""
	for _, w := range []struct {
		word, key string
		to        *string
	}{
		{"agent.https_proxy", "image_pull_proxy.https_proxy", &i.Proxy.HTTPS},
		{"agent.http_proxy", "image_pull_proxy.http_proxy", &i.Proxy.HTTP},
		{"agent.no_proxy", "image_pull_proxy.no_proxy", &i.Proxy.No},
		{"agent.image_registry_auth", "authenticated_registry_credentials_uri", &i.RegistryAuthURI},
		{"agent.image_policy_file", "image_security_policy_uri", &policy},
		{"agent.enable_signature_verification", "enable_signature_verification", &verify},
	} {
		v, ok, err := b.trusted(w.word)
		if err != nil {
			return err
		}
		if ok {
			*w.to = v
			b.cfg.origin["cdh.image."+w.key] = FromCmdline
		}
	}
	if verify != "true" {
		return nil
	}
	// Upstream verifies nothing in this case.
	if policy == "" {
		return fmt.Errorf("agent.enable_signature_verification=true without agent.image_policy_file: %w", ErrValue)
	}
	i.SecurityPolicyURI = policy
	return nil
}

// resourceWord appends the credentials of cdh.kbs_resources=URI::PATH,…
func (b *builder) resourceWord() error {
	v, ok := b.cfg.Cmdline.First("cdh.kbs_resources")
	if !ok {
		return nil
	}
	if !b.in.CmdlineMeasured {
		return fmt.Errorf("cdh.kbs_resources: %w", ErrUnmeasured)
	}
	for item := range strings.SplitSeq(v, ",") {
		uri, path, ok := strings.Cut(item, "::")
		if !ok {
			return fmt.Errorf("cdh.kbs_resources: item %.100q has no '::': %w", item, ErrValue)
		}
		b.cfg.CDH.Credentials = append(b.cfg.CDH.Credentials, Credential{Path: path, ResourceURI: uri})
	}
	b.cfg.origin["cdh.credentials"] = FromCmdline
	return nil
}
