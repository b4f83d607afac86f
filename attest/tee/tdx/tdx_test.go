// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/tsm"
	"cocoon/internal/sharedtest"
)

// made returns a quote of a version about data, with a signature of three bytes.
func made(version uint16, kind uint16, data []byte) []byte {
	b := make([]byte, headerSize)
	binary.LittleEndian.PutUint16(b, version)
	b[4] = 0x81
	size := body10
	if kind == kind15 {
		size = body15
	}
	if version == 5 {
		b = binary.LittleEndian.AppendUint16(b, kind)
		b = binary.LittleEndian.AppendUint32(b, uint32(size))
	}
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(i)
	}
	copy(body[520:584], append(bytes.Clone(data), make([]byte, DataSize)...))
	return append(append(b, body...), 3, 0, 0, 0, 's', 'i', 'g')
}

func TestQuotesOfEachFormAreRead(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		raw    []byte
		fields int
	}{"4": {made(4, 0, []byte("x")), 15}, "5 of TDX 1.0": {made(5, kind10, []byte("x")), 15}, "5 of TDX 1.5": {made(5, kind15, []byte("x")), 17}} {
		q, err := ParseQuote(tc.raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		end := 0
		for _, f := range q.Fields() {
			if f.off != end {
				t.Errorf("%s: %s begins at %d, the field before ends at %d", name, f.Name, f.off, end)
			}
			end = f.off + f.size
		}
		if len(q.Fields()) != tc.fields || end != len(q.Body) || string(q.Signature) != "sig" || q.ReportData()[0] != 'x' || q.Field("other") != nil {
			t.Errorf("%s: %d fields up to %d of %d, signature %q", name, len(q.Fields()), end, len(q.Body), q.Signature)
		}
	}
}

func TestRealQuotesSayWhatIsKnownOfThem(t *testing.T) {
	t.Parallel()
	q, err := ParseQuote(sharedtest.Read(t, "evidence/tdx/tdx_quote_4.dat"))
	if err != nil {
		t.Fatal(err)
	}
	if !q.Attributes().Debug() || !q.Attributes().Named()["septve_disable"] || !strings.HasPrefix(hex.EncodeToString(q.ReportData()), "7c71fe2c") {
		t.Errorf("version 4: %x, %x", q.Field("td_attributes"), q.ReportData())
	}
	if q, err = ParseQuote(sharedtest.Read(t, "evidence/tdx/tdx_quote_5.dat")); err != nil || len(q.Body) != body15 || q.Attributes().Debug() {
		t.Errorf("version 5: %v", err)
	}
	raw := sharedtest.Read(t, "evidence/tdx/tdx_report_1.bin")
	r := (*Report)(raw)
	if got := hex.EncodeToString(r.RTMR(0))[:8] + hex.EncodeToString(r.RTMR(1))[:8]; got != "f4ec1a044e5f8826" {
		t.Errorf("RTMRs %s", got)
	}
}

func TestWhatIsNoQuoteIsRefused(t *testing.T) {
	t.Parallel()
	change := func(b []byte, off int, v byte) []byte { b[off] = v; return b }
	for name, b := range map[string][]byte{
		"nothing": nil, "too long": make([]byte, maxQuote+1), "SGX": change(made(4, 0, nil), 4, 0), "version 3": change(made(4, 0, nil), 0, 3),
		"an odd body": change(made(5, kind10, nil), headerSize, 9), "an odd size": change(made(5, kind10, nil), headerSize+2, 1),
		"a cut body": made(4, 0, nil)[:headerSize+body10], "a cut signature": made(4, 0, nil)[:headerSize+body10+6],
	} {
		if q, err := ParseQuote(b); !errors.Is(err, ErrQuote) {
			t.Errorf("%s: %v, %v", name, q, err)
		}
	}
}

// kernel plays configfs, and answers a request with a quote.
type kernel struct{ quote []byte }

func (k kernel) Make(base string) (string, error) {
	dir, err := os.MkdirTemp(base, "req-")
	for name, text := range map[string]string{"provider": "tdx_guest", "inblob": "", "outblob": string(k.quote), "generation": "1"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir, err
}

func (kernel) Remove(dir string) error { return os.RemoveAll(dir) }

func newAttester(t *testing.T, quote []byte) *Attester {
	t.Helper()
	dir := t.TempDir()
	return &Attester{
		quotes:   tsm.Reporter{Dir: dir, FS: kernel{quote}},
		machine:  machine{device: dir + "/device", dir: dir, ioctl: func(int, *reportRequest) error { return unix.ENOTTY }},
		firmware: filepath.Join(dir, "CCEL"), agent: filepath.Join(dir, "eventlog"),
	}
}

func put(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEvidenceHoldsTheQuoteAndBothLogs(t *testing.T) {
	t.Parallel()
	a := newAttester(t, made(5, kind15, []byte("digest")))
	decode := func() Evidence {
		raw, err := a.Evidence(t.Context(), []byte("digest"))
		if err != nil {
			t.Fatal(err)
		}
		var e Evidence
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	if e := decode(); e.EventLog != nil || !bytes.Equal(e.Quote, made(5, kind15, []byte("digest"))) {
		t.Errorf("without logs: %d bytes of log", len(e.EventLog))
	}
	entry := eventlog.Entry{Domain: "d", Operation: "o", Content: "c"}.Event(4, eventlog.SHA384).Append(nil)
	put(t, a.firmware, append(append(eventlog.Header(), entry...), make([]byte, 4096)...))
	put(t, a.agent, entry)
	l, err := eventlog.Parse(decode().EventLog)
	if err != nil || len(l.Events) != 2 {
		t.Errorf("both logs: %+v (%v)", l, err)
	}
	put(t, a.firmware, []byte("rubbish"))
	if e := decode(); e.EventLog != nil {
		t.Error("a log that no verifier can read was sent")
	}
}

func TestAQuoteOfAnotherRequestIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		quote, data []byte
		want        string
	}{
		"stale":    {made(4, 0, []byte("old")), []byte("new"), "another"},
		"short":    {[]byte("x"), nil, "no TDX quote"},
		"too much": {nil, make([]byte, 65), "at most 64"},
	} {
		if _, err := newAttester(t, tc.quote).Evidence(t.Context(), tc.data); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRegistersAreFilesOrPartOfAReport(t *testing.T) {
	t.Parallel()
	if n := unsafe.Sizeof(reportRequest{}); n != 1088 || getReport != 0xC4405401 {
		t.Errorf("struct tdx_report_req has %d bytes, ioctl %#x", n, uint32(getReport))
	}
	a := newAttester(t, nil)
	if _, err := a.Registers(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("an old kernel: %v", err)
	}
	if _, err := a.machine.Read(t.Context(), 1); !errors.Is(err, ErrUnsupported) {
		t.Errorf("no device: %v", err)
	}
	put(t, a.machine.device, nil)
	if _, err := a.InitDataRegister(t.Context()); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("a device that refuses: %v", err)
	}
	a.machine.ioctl = func(_ int, r *reportRequest) error {
		for i := range r.report {
			r.report[i] = byte(i / 48)
		}
		return nil
	}
	if b, err := a.InitDataRegister(t.Context()); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{12}, 48)) {
		t.Errorf("MRCONFIGID %x (%v)", b, err)
	}
	if b, err := a.machine.Read(t.Context(), 4); err != nil || b[0] != 18 {
		t.Errorf("RTMR3 %x (%v)", b, err)
	}
	if err := a.machine.Extend(t.Context(), 4, make([]byte, 48)); !errors.Is(err, ErrUnsupported) {
		t.Errorf("extend without files: %v", err)
	}
	put(t, filepath.Join(a.machine.dir, "mrconfigid"), make([]byte, 47))
	if _, err := a.InitDataRegister(t.Context()); err == nil {
		t.Error("a short register was taken")
	}
	put(t, filepath.Join(a.machine.dir, "rtmr3:sha384"), make([]byte, 48))
	regs, err := a.Registers()
	if err != nil {
		t.Fatal(err)
	}
	if err := regs.Extend(t.Context(), 4, bytes.Repeat([]byte{7}, 48)); err != nil {
		t.Fatal(err)
	}
	if b, err := regs.Read(t.Context(), 4); err != nil || b[0] != 7 {
		t.Errorf("RTMR3 %x (%v)", b, err)
	}
	for _, n := range []uint32{0, 5} {
		if _, err := regs.Read(t.Context(), n); err == nil {
			t.Errorf("register %d was read", n)
		}
		if err := regs.Extend(t.Context(), n, nil); err == nil {
			t.Errorf("register %d was extended", n)
		}
	}
	for pcr, want := range map[uint64]uint32{0: 4, 1: 1, 2: 2, 6: 2, 7: 1, 8: 3, 15: 3, 16: 4, 17: 4, 23: 4} {
		if got := a.MapPCR(pcr); got != want {
			t.Errorf("PCR %d is register %d, want %d", pcr, got, want)
		}
	}
}

func FuzzParseQuote(f *testing.F) {
	f.Add(made(4, 0, nil))
	f.Add(made(5, kind10, nil))
	f.Add(made(5, kind15, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := ParseQuote(b)
		if err == nil && len(q.ReportData()) != DataSize {
			t.Errorf("report data %x", q.ReportData())
		}
	})
}
