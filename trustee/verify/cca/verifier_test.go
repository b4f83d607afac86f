// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/go-jose/go-jose/v4"
	"github.com/veraison/go-cose"

	"cocoon/attest/tee/cca"
	"cocoon/internal/sharedtest"
	"cocoon/trustee/as"
)

// machine is an Arm machine with keys of its own, and what its tokens say.
type machine struct {
	cpak, rak *ecdsa.PrivateKey
	platform  platform
	realm     realm
	// change the messages after their claims are encoded
	signPlatform, signRealm func(*cose.Sign1Message)
	tag                     uint64
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	}
	m := &machine{cpak: key(), rak: key(), tag: tagToken}
	m.platform = platform{
		Profile: "http://arm.com/CCA-SSD/1.0.0", Implementation: bytes.Repeat([]byte{7}, 32), Instance: append([]byte{1}, bytes.Repeat([]byte{8}, 32)...),
		Config: []byte{1}, Lifecycle: new(uint16(0x3003)), Hash: "sha-256",
		Components: []component{{Type: "RMM", Value: bytes.Repeat([]byte{2}, 32), Signer: bytes.Repeat([]byte{3}, 32), Version: "1.0"}},
	}
	m.realm = realm{
		Challenge: make([]byte, 64), Personalization: bytes.Repeat([]byte{9}, 64), Hash: "sha-512", KeyHash: "sha-256", Initial: bytes.Repeat([]byte{4}, 64),
		Extensible: [][]byte{make([]byte, 64), make([]byte, 64), make([]byte, 64), make([]byte, 64)},
	}
	copy(m.realm.Challenge, "report data")
	return m
}

// sign makes a signed part.
func sign(t testing.TB, key *ecdsa.PrivateKey, alg cose.Algorithm, claims any, change func(*cose.Sign1Message)) []byte {
	t.Helper()
	msg := cose.NewSign1Message()
	msg.Headers.Protected.SetAlgorithm(alg)
	msg.Payload = must[[]byte](t)(cbor.Marshal(claims))
	if change != nil {
		change(msg)
	}
	signer := must[cose.Signer](t)(cose.NewSigner(alg, key))
	if err := msg.Sign(rand.Reader, nil, signer); err != nil {
		t.Fatal(err)
	}
	return must[[]byte](t)(msg.MarshalCBOR())
}

// token makes the machine's token. What the realm's key and the platform's
// challenge are follows, unless they are set.
func (m *machine) token(t testing.TB) []byte {
	t.Helper()
	p, r := m.platform, m.realm
	if r.Key == nil {
		r.Key = must[[]byte](t)(m.rak.PublicKey.Bytes())
	}
	if p.Challenge == nil {
		d := sha256.Sum256(r.Key)
		p.Challenge = d[:]
	}
	both := token{
		Platform: sign(t, m.cpak, cose.AlgorithmES384, p, m.signPlatform), Realm: sign(t, m.rak, cose.AlgorithmES384, r, m.signRealm),
	}
	return must[[]byte](t)(cbor.Marshal(cbor.Tag{Number: m.tag, Content: both}))
}

// anchorOf is the machine's entry of a file of trust anchors.
func (m *machine) anchorOf(t testing.TB) string {
	t.Helper()
	jwk := must[[]byte](t)(jose.JSONWebKey{Key: &m.cpak.PublicKey}.MarshalJSON())
	return fmt.Sprintf(`{"pkey":%s,"implementation-id":"%x","instance-id":"%x"}`, jwk, m.platform.Implementation, m.platform.Instance)
}

func trusting(t testing.TB, text string) *Verifier {
	t.Helper()
	file := filepath.Join(t.TempDir(), "anchors.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return must[*Verifier](t)(New(file))
}

func evidence(t testing.TB, token []byte) json.RawMessage {
	t.Helper()
	return must[[]byte](t)(json.Marshal(cca.Evidence{Token: token}))
}

func binding() as.Binding { return as.Binding{ReportData: []byte("report data")} }

func TestARealmOnAListedPlatformIsBelieved(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v := trusting(t, "["+m.anchorOf(t)+"]")
	b := binding()
	b.InitData = m.realm.Personalization
	c, err := v.Verify(t.Context(), evidence(t, m.token(t)), b)
	if err != nil {
		t.Fatal(err)
	}
	p, r := c.Values["platform"].(map[string]any), c.Values["realm"].(map[string]any)
	if c.Class != "cpu" || *c.InitData != hex.EncodeToString(m.realm.Personalization) || p["cca-platform-lifecycle"] != 0x3003 ||
		!strings.HasPrefix(r["cca-realm-initial-measurement"].(string), "BAQEBAQE") || len(r["cca-realm-extensible-measurements"].([]any)) != 4 ||
		p["cca-platform-sw-components"].([]any)[0].(map[string]any)["measurement-type"] != "RMM" {
		t.Errorf("claims %+v", c)
	}
}

func TestANewerRealmHasItsKeyAsACOSEKey(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	key := must[*cose.Key](t)(cose.NewKeyFromPublic(&m.rak.PublicKey))
	m.realm.Profile, m.realm.Key = profileKey, must[[]byte](t)(key.MarshalCBOR())
	if _, err := trusting(t, "["+m.anchorOf(t)+"]").Verify(t.Context(), evidence(t, m.token(t)), binding()); err != nil {
		t.Error(err)
	}
}

// The token is upstream's sample, which names no session.
func TestTheSampleTokenHolds(t *testing.T) {
	t.Parallel()
	raw := sharedtest.Read(t, "evidence/cca/misc/cca-example-token.cbor")
	v := trusting(t, string(sharedtest.Read(t, "evidence/cca/conf/tastore.json")))
	c, err := v.Verify(t.Context(), evidence(t, raw), as.Binding{Unbound: true})
	if err != nil {
		t.Fatal(err)
	}
	if r := c.Values["realm"].(map[string]any); !strings.HasPrefix(c.ReportData, "57e979ae2618de0c") || !strings.HasPrefix(r["cca-realm-initial-measurement"].(string), "rof79/EF5xp4") {
		t.Errorf("claims %+v", c)
	}
	for i := 0; i < len(raw); i += 7 { // each takes a signature or two
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, err := v.Verify(t.Context(), evidence(t, bad), as.Binding{Unbound: true}); !errors.Is(err, as.ErrEvidence) {
			t.Errorf("bit of byte %d: %v", i, err)
		}
	}
	for _, b := range []as.Binding{{}, {ReportData: []byte("x")}} {
		if _, err := v.Verify(t.Context(), evidence(t, raw), b); !errors.Is(err, as.ErrEvidence) {
			t.Errorf("another session: %v", err)
		}
	}
}

func TestTokensThatProveNothingAreRefused(t *testing.T) {
	t.Parallel()
	other := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	small := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for name, tc := range map[string]struct {
		spoil func(*machine)
		why   string
	}{
		"other platform key":     {func(m *machine) { m.cpak = other }, "verification error"},
		"other realm key":        {func(m *machine) { m.realm.Key = must[[]byte](t)(other.PublicKey.Bytes()) }, "verification error"},
		"realm of another":       {func(m *machine) { m.platform.Challenge = make([]byte, 32) }, "not the digest of the realm's key"},
		"hash of the key":        {func(m *machine) { m.realm.KeyHash = "md5" }, "not known"},
		"other instance":         {func(m *machine) { m.platform.Instance[5] = 0 }, "not among the trusted"},
		"short instance":         {func(m *machine) { m.platform.Instance = m.platform.Instance[:32] }, "instance id"},
		"instance of other kind": {func(m *machine) { m.platform.Instance[0] = 2 }, "instance id"},
		"other implementation":   {func(m *machine) { m.platform.Implementation[0] = 0 }, "trust anchor is for"},
		"no implementation":      {func(m *machine) { m.platform.Implementation = nil }, "implementation id"},
		"being debugged":         {func(m *machine) { m.platform.Lifecycle = new(uint16(0x4000)) }, "not secured"},
		"being built":            {func(m *machine) { m.platform.Lifecycle = new(uint16(0)) }, "not secured"},
		"no lifecycle":           {func(m *machine) { m.platform.Lifecycle = nil }, "lifecycle"},
		"no firmware":            {func(m *machine) { m.platform.Components = nil }, "no component"},
		"short challenge":        {func(m *machine) { m.realm.Challenge = m.realm.Challenge[:63] }, "challenge of 63"},
		"other challenge":        {func(m *machine) { m.realm.Challenge[63] = 1 }, "report data"},
		"no personalization":     {func(m *machine) { m.realm.Personalization = nil }, "personalization of 0"},
		"no measurement":         {func(m *machine) { m.realm.Initial = nil }, "measurement of 0"},
		"three registers":        {func(m *machine) { m.realm.Extensible = m.realm.Extensible[:3] }, "3 extensible"},
		"odd register":           {func(m *machine) { m.realm.Extensible[2] = make([]byte, 65) }, "measurement of 65"},
		"unknown profile":        {func(m *machine) { m.realm.Profile = "tag:x" }, "profile"},
		"a point as COSE_Key":    {func(m *machine) { m.realm.Profile = profileKey }, "the realm's key"},
		"key of another curve":   {func(m *machine) { m.realm.Key = must[[]byte](t)(small.PublicKey.Bytes()) }, "the realm's key"},
		"other tag":              {func(m *machine) { m.tag = 400 }, "tag 400"},
		"unprotected header": {func(m *machine) {
			m.signPlatform = func(s *cose.Sign1Message) { s.Headers.Unprotected[cose.HeaderLabelKeyID] = []byte("x") }
		}, "nothing protects"},
		"critical header": {func(m *machine) {
			m.signRealm = func(s *cose.Sign1Message) {
				s.Headers.Protected[cose.HeaderLabelCritical] = []any{int64(4)}
				s.Headers.Protected[cose.HeaderLabelKeyID] = []byte("x")
			}
		}, "critical"},
	} {
		m := newMachine(t)
		v := trusting(t, "["+m.anchorOf(t)+"]")
		tc.spoil(m)
		c, err := v.Verify(t.Context(), evidence(t, m.token(t)), binding())
		if !errors.Is(err, as.ErrEvidence) || c != nil || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An attacker who can sign with his own key must not choose a weaker way.
func TestTheAlgorithmIsTheKeys(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v := trusting(t, "["+m.anchorOf(t)+"]")
	small := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	d := sha256.Sum256(must[[]byte](t)(m.rak.PublicKey.Bytes()))
	m.platform.Challenge, m.realm.Key = d[:], must[[]byte](t)(m.rak.PublicKey.Bytes())
	both := token{Platform: sign(t, small, cose.AlgorithmES256, m.platform, nil), Realm: sign(t, m.rak, cose.AlgorithmES384, m.realm, nil)}
	raw := must[[]byte](t)(cbor.Marshal(cbor.Tag{Number: tagToken, Content: both}))
	if _, err := v.Verify(t.Context(), evidence(t, raw), binding()); !errors.Is(err, as.ErrEvidence) || !strings.Contains(err.Error(), "algorithm mismatch") {
		t.Errorf("%v", err)
	}
}

func TestInitDataIsTheWholePersonalizationValue(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.realm.Personalization = append(bytes.Repeat([]byte{9}, 32), make([]byte, 32)...)
	v := trusting(t, "["+m.anchorOf(t)+"]")
	raw := evidence(t, m.token(t))
	for name, digest := range map[string][]byte{"padded": m.realm.Personalization[:32], "other": make([]byte, 64), "empty": {}} {
		b := binding()
		b.InitData = digest
		if _, err := v.Verify(t.Context(), raw, b); !errors.Is(err, as.ErrEvidence) || !strings.Contains(err.Error(), "personalization") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatIsNoTokenIsRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	v := trusting(t, "["+m.anchorOf(t)+"]")
	good := m.token(t)
	for name, raw := range map[string][]byte{
		"empty": {}, "text": []byte("x"), "cut": good[:len(good)/2], "more": append(bytes.Clone(good), 0), "huge": make([]byte, maxToken+1),
		"one part":      must[[]byte](t)(cbor.Marshal(cbor.Tag{Number: tagToken, Content: map[uint]any{44234: []byte("x")}})),
		"parts of text": must[[]byte](t)(cbor.Marshal(cbor.Tag{Number: tagToken, Content: map[uint]any{44234: "x", 44241: "y"}})),
		"twice":         append([]byte{0xd9, 0x01, 0x8f, 0xa3, 0x19, 0xac, 0xca, 0x41, 1, 0x19, 0xac, 0xd1, 0x41, 1, 0x19, 0xac, 0xca}, 0x41, 2),
		"endless":       {0xd9, 0x01, 0x8f, 0xbf, 0xff},
	} {
		if _, err := v.Verify(t.Context(), evidence(t, raw), binding()); !errors.Is(err, as.ErrEvidence) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, raw := range []string{"", "[]", `{"token":"x"}`, `{"token":[256]}`, `{}`} {
		if _, err := v.Verify(t.Context(), json.RawMessage(raw), binding()); !errors.Is(err, as.ErrEvidence) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestAnchorsThatVouchForNothingAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	good := m.anchorOf(t)
	rsaKey := `{"kty":"RSA","n":"` + strings.Repeat("A", 342) + `Q","e":"AQAB"}`
	for name, text := range map[string]string{
		"empty": "", "no list": good, "none": "[]", "twice": "[" + good + "," + good + "]", "unknown member": `[{"x":1}]`,
		"no key":         strings.Replace("["+good+"]", `"pkey"`, `"other"`, 1),
		"key is null":    `[{"pkey":null,"implementation-id":"` + strings.Repeat("07", 32) + `","instance-id":"` + strings.Repeat("01", 33) + `"}]`,
		"RSA":            `[{"pkey":` + rsaKey + `,"implementation-id":"` + strings.Repeat("07", 32) + `","instance-id":"` + strings.Repeat("01", 33) + `"}]`,
		"short id":       strings.Replace("["+good+"]", `"0707`, `"07`, 1),
		"id not hex":     strings.Replace("["+good+"]", `"0707`, `"xx07`, 1),
		"short instance": strings.Replace("["+good+"]", `"0108`, `"01`, 1),
	} {
		if a, err := parseAnchors([]byte(text)); err == nil {
			t.Errorf("%s: %d anchors", name, len(a))
		}
	}
	if _, err := New(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func FuzzToken(f *testing.F) {
	m := newMachine(f)
	v := trusting(f, "["+m.anchorOf(f)+"]")
	f.Add([]byte{0xd9, 0x01, 0x8f, 0xa0})
	f.Add(m.token(f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, r, err := v.check(raw)
		if err == nil && (p == nil || r == nil || !p.secured()) {
			t.Errorf("accepted %+v, %+v", p, r)
		}
	})
}
