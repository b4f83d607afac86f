// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package csv

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/emmansun/gmsm/sm2"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/csv"
	"cocoon/internal/sharedtest"
	"cocoon/trustee/as"
)

const (
	rootUID = "root"
	serial  = "CHIP7"
)

// hygon plays Hygon, a chip and a platform.
type hygon struct {
	root, signing, chip, platform *sm2.PrivateKey
	hsk                           csv.CA
	cek, pek                      csv.Cert
}

func newKey(t testing.TB) *sm2.PrivateKey {
	t.Helper()
	k, err := sm2.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func littleEndian(n *big.Int) (out [72]byte) {
	b := n.FillBytes(make([]byte, 32))
	slices.Reverse(b)
	copy(out[:], b)
	return out
}

func point(k *sm2.PrivateKey) csv.Point {
	return csv.Point{X: littleEndian(k.X), Y: littleEndian(k.Y)}
}

func sign(t testing.TB, k *sm2.PrivateKey, uid string, b []byte) csv.RS {
	t.Helper()
	r, s, err := sm2.SignWithSM2(rand.Reader, &k.PrivateKey, []byte(uid), b)
	if err != nil {
		t.Fatal(err)
	}
	return csv.RS{R: littleEndian(r), S: littleEndian(s)}
}

func must(t testing.TB) func(b []byte, err error) []byte {
	return func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func newHygon(t testing.TB) *hygon {
	t.Helper()
	h := &hygon{root: newKey(t), signing: newKey(t), chip: newKey(t), platform: newKey(t)}
	h.hsk.Body.Preamble.Data.Usage, h.hsk.Body.Preamble.Data.SID = csv.UsageSigning, [16]byte{1}
	h.hsk.Body.PubKey.G, h.hsk.Body.PubKey.Point = csv.Curve, point(h.signing)
	h.hsk.Body.UIDSize = uint16(copy(h.hsk.Body.UserID[:], "hsk"))
	h.hsk.Signature = sign(t, h.root, rootUID, must(t)(h.hsk.Signed()))
	h.cek = cert(t, h.chip, csv.UsageChip, "cek", h.signing, csv.UsageSigning, "hsk")
	h.pek = cert(t, h.platform, csv.UsagePlatform, "pek", h.chip, csv.UsageChip, "cek")
	return h
}

func cert(t testing.TB, k *sm2.PrivateKey, use uint32, uid string, by *sm2.PrivateKey, byUse uint32, byUID string) (c csv.Cert) {
	t.Helper()
	d := &c.Body.Data
	d.PubKey.Usage, d.PubKey.Algo = use, csv.SM2
	d.PubKey.Key.G, d.PubKey.Key.Point = csv.Curve, point(k)
	d.UIDSize = uint16(copy(d.UserID[:], uid))
	// The first place may hold the signature of somebody else.
	c.Sigs[0].Usage, c.Sigs[0].Algo = 0x1001, csv.SM2
	c.Sigs[1].Usage, c.Sigs[1].Algo = byUse, csv.SM2
	c.Sigs[1].Signature = sign(t, by, byUID, must(t)(c.Signed()))
	return c
}

// report returns a signed report of a version with the given registers.
func (h *hygon) report(t testing.TB, version int, rtmr3 []byte) []byte {
	t.Helper()
	b := make([]byte, csv.PageSize)
	copy(b[64:], "report data")
	copy(b[144:], "measurement")
	binary.LittleEndian.PutUint32(b[176:], 1)
	binary.LittleEndian.PutUint32(b[180:], csv.UsagePlatform)
	binary.LittleEndian.PutUint32(b[184:], csv.SM2)
	signed, at := 1024, 1024
	if version == 1 {
		signed, at = 180, 192
		for i := range 192 {
			b[i] ^= byte(7 * (i%4 + 1))
		}
		b[188], b[189], b[190], b[191] = 7, 14, 21, 28
	} else {
		copy(b[208+3*32:], rtmr3)
	}
	if version == 3 {
		copy(b[960:], "host data")
	}
	s := sign(t, h.platform, "pek", b[:signed])
	copy(b[at:], s.R[:])
	copy(b[at+72:], s.S[:])
	return b
}

func (h *hygon) evidence(t testing.TB, version int, rtmr3 []byte, change func(e *csv.Evidence)) json.RawMessage {
	t.Helper()
	var e csv.Evidence
	e.Report.Data = h.report(t, version, rtmr3)
	if version > 1 {
		copy(e.Report.Magic[:], "ATTESTATION_EXT")
		e.Report.Flags = []uint32{1, 3}[version-2]
	}
	e.Chain.PEK = h.pek
	e.Chain.HSKCEK = &struct {
		HSK csv.CA   `json:"hsk"`
		CEK csv.Cert `json:"cek"`
	}{h.hsk, h.cek}
	e.Serial = append([]byte(serial), make([]byte, 59)...)
	if change != nil {
		change(&e)
	}
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (h *hygon) verifier(t testing.TB, sources ...Source) *Verifier {
	t.Helper()
	v, err := New(Config{Root: &Root{ID: [16]byte{1}, Key: &h.root.PublicKey, UID: []byte(rootUID)}, Sources: sources})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func binding() as.Binding { return as.Binding{ReportData: []byte("report data")} }

func log(t testing.TB, e eventlog.Event) []byte {
	t.Helper()
	return must(t)(eventlog.Join(nil, e.Append(nil)))
}

func TestReportsOfAllVersionsVerify(t *testing.T) {
	t.Parallel()
	h := newHygon(t)
	entry := eventlog.Entry{Domain: "d", Operation: "o"}.Event(3, eventlog.SM3)
	rtmr := eventlog.SM3.Sum(make([]byte, 32), entry.Sum(eventlog.SM3))
	for version := 1; version <= 3; version++ {
		raw := h.evidence(t, version, rtmr, func(e *csv.Evidence) { e.EventLog = log(t, entry) })
		c, err := h.verifier(t).Verify(t.Context(), raw, binding())
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		policy, _ := c.Values["policy"].(map[string]any)
		events, _ := c.Values["uefi_event_logs"].([]any)
		if c.Class != "cpu" || policy["nodbg"] != uint32(1) || !strings.HasPrefix(c.Values["measure"].(string), "6d6561737572656d656e74") ||
			(len(events) == 1) != (version > 1) || (c.InitData != nil) != (version == 3) || c.Values["serial_number"] != nil {
			t.Errorf("version %d: %+v", version, c)
		}
	}
	b := as.Binding{ReportData: []byte("report data"), InitData: []byte("host data")}
	if _, err := h.verifier(t).Verify(t.Context(), h.evidence(t, 3, nil, nil), b); err != nil {
		t.Errorf("with init data: %v", err)
	}
}

func TestWhatTheChainDoesNotCoverIsRefused(t *testing.T) {
	t.Parallel()
	h, other := newHygon(t), newHygon(t)
	with := func(version int, f func(e *csv.Evidence)) json.RawMessage { return h.evidence(t, version, nil, f) }
	usage := h.pek
	usage.Body.Data.PubKey.Usage = csv.UsageChip
	for name, tc := range map[string]struct {
		raw  json.RawMessage
		b    as.Binding
		want string
	}{
		"no JSON":             {json.RawMessage("["), binding(), "unexpected end"},
		"nothing":             {json.RawMessage("{}"), binding(), "0 bytes"},
		"short":               {with(1, func(e *csv.Evidence) { e.Report.Data = e.Report.Data[1:] }), binding(), "4095 bytes"},
		"text":                {json.RawMessage(`{"attestation_report":{"data":"AA"}}`), binding(), "no list of numbers"},
		"odd flags":           {with(2, func(e *csv.Evidence) { e.Report.Flags = 2 }), binding(), "flags 2"},
		"odd mark":            {with(1, func(e *csv.Evidence) { e.Report.Magic[3] = 1 }), binding(), "no CSV report"},
		"as another version":  {with(2, func(e *csv.Evidence) { e.Report.Flags = 0 }), binding(), "report"},
		"changed report":      {with(1, func(e *csv.Evidence) { e.Report.Data[150] ^= 1 }), binding(), "report: the signature"},
		"changed registers":   {with(2, func(e *csv.Evidence) { e.Report.Data[300] ^= 1 }), binding(), "report: the signature"},
		"changed host data":   {with(3, func(e *csv.Evidence) { e.Report.Data[970] ^= 1 }), binding(), "report: the signature"},
		"a long number":       {with(1, func(e *csv.Evidence) { e.Report.Data[192+40] = 1 }), binding(), "more than 32 bytes"},
		"another use":         {with(1, func(e *csv.Evidence) { e.Report.Data[180] ^= 1 }), binding(), "signed by a key of use"},
		"another platform":    {with(1, func(e *csv.Evidence) { e.Chain.PEK = other.pek }), binding(), "PEK: the signature"},
		"a platform of a use": {with(1, func(e *csv.Evidence) { e.Chain.PEK = usage }), binding(), "PEK: use"},
		"an unsigned PEK":     {with(1, func(e *csv.Evidence) { e.Chain.PEK.Sigs[1].Usage = 7 }), binding(), "PEK: no signature"},
		"a point off curve":   {with(1, func(e *csv.Evidence) { e.Chain.HSKCEK.CEK.Body.Data.PubKey.Key.X[0] ^= 1 }), binding(), "CEK: the signature"},
		"another chip":        {with(1, func(e *csv.Evidence) { e.Chain.HSKCEK.CEK = other.cek }), binding(), "CEK: the signature"},
		"another signing key": {with(1, func(e *csv.Evidence) { e.Chain.HSKCEK.HSK = other.hsk }), binding(), "HSK: the signature"},
		"an HSK of a use":     {with(1, func(e *csv.Evidence) { e.Chain.HSKCEK.HSK.Body.Preamble.Data.Usage = 0 }), binding(), "HSK: use"},
		"an HSK of another":   {with(1, func(e *csv.Evidence) { e.Chain.HSKCEK.HSK.Body.Preamble.Data.SID[0] ^= 1 }), binding(), "HSK: use"},
		"no HSK":              {with(1, func(e *csv.Evidence) { e.Chain.HSKCEK = nil }), binding(), "no source"},
		"another session":     {with(1, nil), as.Binding{ReportData: []byte("x")}, "not the digest of this session"},
		"no session":          {with(1, nil), as.Binding{}, "no report data"},
		"init data, old":      {with(2, nil), as.Binding{ReportData: []byte("report data"), InitData: []byte("x")}, "confirms no init data"},
		"other init data":     {with(3, nil), as.Binding{ReportData: []byte("report data"), InitData: []byte("x")}, "launched with the init data digest"},
		"a log that lies": {with(2, func(e *csv.Evidence) {
			e.EventLog = log(t, eventlog.Entry{Domain: "d", Operation: "o"}.Event(3, eventlog.SM3))
		}), binding(), "RTMR3 is 0000"},
		"an event of RTMR 0": {with(2, func(e *csv.Evidence) {
			e.EventLog = log(t, eventlog.Entry{Domain: "d", Operation: "o"}.Event(0, eventlog.SM3))
		}), binding(), "register 0"},
		"an event of no RTMR": {with(2, func(e *csv.Evidence) {
			e.EventLog = log(t, eventlog.Entry{Domain: "d", Operation: "o"}.Event(5, eventlog.SM3))
		}), binding(), "register 5"},
		"rubbish as log": {with(2, func(e *csv.Evidence) { e.EventLog = []byte("x") }), binding(), "event log"},
	} {
		c, err := h.verifier(t).Verify(t.Context(), tc.raw, tc.b)
		if !errors.Is(err, as.ErrEvidence) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v; want %q", name, c, err, tc.want)
		}
	}
	if _, err := other.verifier(t).Verify(t.Context(), with(1, nil), binding()); !errors.Is(err, as.ErrEvidence) {
		t.Errorf("another root: %v", err)
	}
}

func (h *hygon) pair(t testing.TB) []byte {
	t.Helper()
	b := must(t)(binary.Append(nil, binary.LittleEndian, h.hsk))
	return must(t)(binary.Append(b, binary.LittleEndian, h.cek))
}

func TestCertificatesAreLookedUp(t *testing.T) {
	t.Parallel()
	h, other := newHygon(t), newHygon(t)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, serial), 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		if err := os.WriteFile(filepath.Join(dir, serial, "hsk_cek.cert"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() != "/hsk_cek?snumber="+serial {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Write(h.pair(t)) //nolint:errcheck // the client notices
	}))
	defer server.Close()
	service := KDS{URL: server.URL, Client: server.Client()}
	raw := h.evidence(t, 1, nil, func(e *csv.Evidence) { e.Chain.HSKCEK = nil })
	check := func(name string, v *Verifier, raw json.RawMessage, want string) {
		_, err := v.Verify(t.Context(), raw, binding())
		if want == "" && err != nil || want != "" && (!errors.Is(err, as.ErrEvidence) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	check("an empty folder", h.verifier(t, Folder(dir)), raw, ErrNoPair.Error())
	check("the service", h.verifier(t, Folder(dir), service), raw, "")
	put(h.pair(t))
	check("a folder", h.verifier(t, Folder(dir)), raw, "")
	put(other.pair(t))
	check("another chip's", h.verifier(t, Folder(dir)), raw, "HSK: the signature")
	check("another chip's, then the service", h.verifier(t, Folder(dir), service), raw, "")
	put([]byte("x"))
	check("rubbish", h.verifier(t, Folder(dir)), raw, "1 bytes")
	for _, s := range []string{"", "../x", "A B", "A/B", strings.Repeat("A", 65)} {
		odd := h.evidence(t, 1, nil, func(e *csv.Evidence) { e.Chain.HSKCEK, e.Serial = nil, []byte(s) })
		check("serial "+s, h.verifier(t, Folder(dir), service), odd, "serial number")
	}
	none := h.evidence(t, 1, nil, func(e *csv.Evidence) { e.Chain.HSKCEK, e.Serial = nil, []byte("OTHER") })
	check("an unknown chip", h.verifier(t, service), none, ErrNoPair.Error())
}

// Hygon's certificate of its root key is signed by itself, and the platform's
// key of the real evidence has signed its report. What lies between is not part
// of that evidence.
func TestRealEvidenceHolds(t *testing.T) {
	t.Parallel()
	root, err := hygonRoot()
	if err != nil {
		t.Fatal(err)
	}
	hrk, err := csv.ParseCA(sharedtest.Read(t, "evidence/csv/hrk.cert"))
	if err != nil {
		t.Fatal(err)
	}
	itself := signer{root.Key, root.UID}
	if err := itself.check(must(t)(hrk.Signed()), hrk.Signature.R[:], hrk.Signature.S[:]); err != nil || hrk.Body.Preamble.Data.KID != root.ID {
		t.Errorf("root key %x: %v", hrk.Body.Preamble.Data.KID, err)
	}
	var e csv.Evidence
	raw := sharedtest.Read(t, "evidence/csv/csv_evidence.json")
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	key, err := publicKey(e.Chain.PEK.Body.Data.PubKey.Key.Point)
	if err != nil {
		t.Fatal(err)
	}
	platform := signer{key, e.Chain.PEK.UID()}
	check := func() error {
		r, err := csv.ParseReport(e.Report.Data, e.Report.Magic, e.Report.Flags)
		if err != nil {
			t.Fatal(err)
		}
		return platform.checkReport(r)
	}
	if err := check(); err != nil {
		t.Error(err)
	}
	for _, span := range [][2]int{{0, 192}, {192, 192 + 32}, {264, 264 + 32}} {
		for off := span[0]; off < span[1]; off++ {
			e.Report.Data[off] ^= 1
			if err := check(); err == nil {
				t.Errorf("byte %d changed: nothing was noticed", off)
			}
			e.Report.Data[off] ^= 1
		}
	}
	v, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), raw, as.Binding{Unbound: true}); err == nil || !strings.Contains(err.Error(), "lacks HSK and CEK") {
		t.Errorf("as a whole: %v", err)
	}
	again, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if json.Unmarshal(raw, &a) != nil || json.Unmarshal(again, &b) != nil {
		t.Fatal("no JSON")
	}
	want, _ := json.Marshal(a) //nolint:errcheck,errchkjson // it was JSON
	got, _ := json.Marshal(b)  //nolint:errcheck,errchkjson // it was JSON
	if !bytes.Equal(got, want) {
		t.Errorf("the evidence changes when it is written: %.300s", got)
	}
}

func FuzzEvidence(f *testing.F) {
	h := newHygon(f)
	v := h.verifier(f, never{})
	f.Add([]byte(`{"attestation_report":{"data":[1],"flags":0,"magic":[0]},"cert_chain":{"pek":{"body":{"ver":1}}},"serial_number":[65]}`))
	f.Add([]byte(h.evidence(f, 2, nil, func(e *csv.Evidence) { e.Report.Data[0] ^= 1 })))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := v.Verify(t.Context(), raw, as.Binding{ReportData: []byte("other")}); err == nil {
			t.Errorf("accepted: %+v", c)
		}
	})
}

// never has nothing.
type never struct{}

func (never) Pair(context.Context, string) ([]byte, error) { return make([]byte, pairSize), nil }
