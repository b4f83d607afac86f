// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cocoon/internal/config/shallow"
)

// DefaultInitPCR is the register that measurements go to when neither the
// configuration nor the caller names one.
const DefaultInitPCR = 17

const (
	maxConfig  = 1 << 20 // bytes
	maxPCR     = 23      // the last one that a TPM has
	maxUnknown = 32
)

// Config is the content of aa.toml.
type Config struct {
	Tokens   Tokens   `toml:"token_configs"`
	EventLog EventLog `toml:"eventlog_config"`
	Log      Log      `toml:"log"`

	// Unknown lists the keys that the file has and the agent does not know,
	// for a warning.
	Unknown []string `toml:"-"`
}

// Tokens says where tokens come from; a nil member is not configured.
type Tokens struct {
	KBS    *KBS    `toml:"kbs"`
	CoCoAS *CoCoAS `toml:"coco_as"`
}

// KBS names a key broker.
type KBS struct {
	URL             string `toml:"url"`
	Cert            string `toml:"cert"` // PEM text of extra root certificates
	TEEKeyAlgorithm string `toml:"tee_key_algorithm"`
	// The proxies to the broker, which upstream takes from the environment.
	HTTPSProxy string `toml:"https_proxy"`
	HTTPProxy  string `toml:"http_proxy"`
	NoProxy    string `toml:"no_proxy"`
}

// CoCoAS names an attestation service.
type CoCoAS struct {
	URL  string `toml:"url"`
	Cert string `toml:"cert"` // PEM text of extra root certificates, which upstream does not have
}

// EventLog configures runtime measurement.
type EventLog struct {
	Enabled bool   `toml:"enable_eventlog"`
	InitPCR uint64 `toml:"init_pcr"`
}

// Log configures logging.
type Log struct {
	Level string `toml:"level"`
}

// ParseConfig parses aa.toml. Unknown keys are no error, as the file may be
// written for another version; they are listed in Config.Unknown. Empty text
// gives the defaults.
func ParseConfig(text []byte) (Config, error) {
	c := Config{EventLog: EventLog{InitPCR: DefaultInitPCR}, Log: Log{Level: "info"}}
	meta, err := shallow.Decode(text, maxConfig, &c)
	if err != nil {
		return Config{}, fmt.Errorf("parse aa.toml: %w", err)
	}
	for _, key := range meta.Undecoded() {
		if len(c.Unknown) == maxUnknown {
			break
		}
		c.Unknown = append(c.Unknown, key.String())
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("parse aa.toml: %w", err)
	}
	return c, nil
}

func (c Config) check() error {
	if k := c.Tokens.KBS; k != nil && k.URL == "" {
		return errors.New("token_configs.kbs has no url")
	}
	if k := c.Tokens.CoCoAS; k != nil && k.URL == "" {
		return errors.New("token_configs.coco_as has no url")
	}
	// A negative number has become a huge one here.
	if c.EventLog.InitPCR > maxPCR {
		return fmt.Errorf("eventlog_config.init_pcr is not from 0 to %d", maxPCR)
	}
	levels := []string{"off", "error", "warn", "info", "debug", "trace"}
	if !slices.Contains(levels, strings.ToLower(c.Log.Level)) {
		return fmt.Errorf("log.level %.32q is not one of %s", c.Log.Level, strings.Join(levels, ", "))
	}
	return nil
}

// ParseKBCParams parses the kernel parameter agent.aa_kbc_params, of the form
// kbc::uri, which stands in for a missing aa.toml. The text is split at the
// first "::", so that an IPv6 address may follow. The kbc cc_kbc names a key
// broker; offline_fs_kbc, or empty text, names none; any other is an error.
func ParseKBCParams(params string) (Config, error) {
	c, err := ParseConfig(nil)
	if err != nil || params == "" {
		return c, err
	}
	kbc, uri, ok := strings.Cut(params, "::")
	switch {
	case !ok:
		return Config{}, fmt.Errorf("aa_kbc_params %.64q is not kbc::uri", params)
	case kbc == "offline_fs_kbc":
		return c, nil
	case kbc != "cc_kbc":
		return Config{}, fmt.Errorf("aa_kbc_params names the kbc %.32q; only cc_kbc and offline_fs_kbc are known", kbc)
	case uri == "":
		return Config{}, errors.New("aa_kbc_params names cc_kbc but no key broker")
	}
	c.Tokens.KBS = &KBS{URL: uri}
	return c, nil
}
