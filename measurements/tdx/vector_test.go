// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"io"
	"testing"

	"cocoon/internal/sharedtest"
	"cocoon/measurements/ovmf"
)

// firmware is one of the vectors. Its file is of a distribution and mostly
// absent.
type firmware struct {
	File, SHA256 string
	Sections     []struct {
		DataOffset uint32 `json:"data_offset"`
		RawSize    uint32 `json:"raw_size"`
		Address    uint64 `json:"memory_address"`
		Size       uint64 `json:"memory_size"`
		Type       uint32
		Attributes uint32
	}
	PerPage string `json:"mrtd_per_page"`
	TwoPass string `json:"mrtd_two_pass"`
	CFV     string `json:"cfv_sha384"`
}

func firmwares(t *testing.T) []firmware {
	t.Helper()
	var file struct{ Firmware []firmware }
	if err := json.Unmarshal(sharedtest.Read(t, "measure/tdx/mrtd.json"), &file); err != nil {
		t.Fatal(err)
	}
	return file.Firmware
}

// sections are those of the vector, without content.
func (f firmware) sections() []Section {
	var list []Section
	for _, s := range f.Sections {
		list = append(list, Section{DataOffset: s.DataOffset, RawSize: s.RawSize, Address: s.Address, Size: s.Size, Type: s.Type, Attributes: s.Attributes})
	}
	return list
}

func unzip(t *testing.T, name, digest string) []byte {
	t.Helper()
	r := must[*gzip.Reader](t)(gzip.NewReader(bytes.NewReader(sharedtest.Read(t, name))))
	b := must[[]byte](t)(io.ReadAll(r))
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != digest {
		t.Fatalf("%s has the digest %x, want %s", name, sum, digest)
	}
	return b
}

// The first value was seen on live machines.
func TestFirmwareOfADistributionHasItsKnownMRTD(t *testing.T) {
	t.Parallel()
	for _, f := range firmwares(t) {
		t.Run(f.File, func(t *testing.T) {
			t.Parallel()
			i := must[*ovmf.Image](t)(ovmf.Parse(unzip(t, "measure/tdx/"+f.File, f.SHA256)))
			one, two := must[Register](t)(MRTD(i)), must[Register](t)(MRTDTwoPass(i))
			if hex.EncodeToString(one[:]) != f.PerPage || hex.EncodeToString(two[:]) != f.TwoPass {
				t.Errorf("%x and %x, want %s and %s", one, two, f.PerPage, f.TwoPass)
			}
			for n, s := range f.sections() {
				got := must[[]Section](t)(Sections(i))[n]
				if got.content = nil; got.Address != s.Address || got.Size != s.Size || got.Type != s.Type || got.Attributes != s.Attributes || got.DataOffset != s.DataOffset {
					t.Errorf("section %d is %+v, want %+v", n, got, s)
				}
			}
			if f.CFV != "" {
				if known := must[[]Event](t)(Known(i, 2<<30)); hex.EncodeToString(known[1].Digest[:]) != f.CFV {
					t.Errorf("CFV has the digest %x, want %s", known[1].Digest, f.CFV)
				}
			}
		})
	}
}

// One of them was seen in the log of a real guest.
func TestTheTDHOBIsThatOfEachMachine(t *testing.T) {
	t.Parallel()
	var file struct {
		HOB []struct {
			Firmware string
			Memory   uint64 `json:"memory_mib"`
			Hex      string `json:"tdhob_hex"`
			Len      int    `json:"tdhob_len"`
			SHA384   string
		} `json:"td_hob"`
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/tdx/rtmr.json"), &file); err != nil {
		t.Fatal(err)
	}
	sections := map[string][]Section{}
	for _, f := range firmwares(t) {
		sections[f.File] = f.sections()
	}
	for _, v := range file.HOB {
		b, err := TDHOB(sections[v.Firmware+".gz"], v.Memory<<20)
		sum := sha512.Sum384(b)
		if err != nil || len(b) != v.Len || hex.EncodeToString(sum[:]) != v.SHA384 || v.Hex != "" && hex.EncodeToString(b) != v.Hex {
			t.Errorf("%d MiB with %s: %d bytes of digest %x, want %d of %s (%v)", v.Memory, v.Firmware, len(b), sum, v.Len, v.SHA384, err)
		}
	}
	if len(file.HOB) != 14 {
		t.Errorf("%d machines", len(file.HOB))
	}
}

func rtmrFile(t *testing.T) (constants map[string]string, uiAppHex string, logs []log) {
	t.Helper()
	var file struct {
		Constants map[string]string `json:"constant_event_digests"`
		UIApp     string            `json:"boot0000_value_hex"`
		CCEL      []log
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/tdx/rtmr.json"), &file); err != nil {
		t.Fatal(err)
	}
	return file.Constants, file.UIApp, file.CCEL
}

func TestEventsThatNeverDifferAreThoseOfRealLogs(t *testing.T) {
	t.Parallel()
	digests, app, _ := rtmrFile(t)
	if got := hex.EncodeToString(uiApp()); got != app {
		t.Errorf("Boot0000 is %s, want %s", got, app)
	}
	names := []string{
		"EV_EFI_VARIABLE_DRIVER_CONFIG empty SecureBoot", "empty PK", "empty KEK", "empty db", "empty dbx", "separator 00000000", "BootMenu 0000",
		`bootorder "/rom@genroms/linuxboot_dma.bin\0"`, "Boot0000 UiApp value",
	}
	for n, e := range constants() {
		if got := hex.EncodeToString(e.Digest[:]); got != digests[names[n]] {
			t.Errorf("%s is %s, want %s", e.What, got, digests[names[n]])
		}
	}
	if len(constants()) != len(names) {
		t.Errorf("%d constants", len(constants()))
	}
}

// A real guest of 2 GiB, started with -kernel: what remains are its three tables
// of ACPI.
func TestMostOfRTMR0OfARealGuestIsKnown(t *testing.T) {
	t.Parallel()
	_, _, logs := rtmrFile(t)
	r := must[*Replayed](t)(Replay(unzip(t, "measure/tdx/"+logs[0].File, logs[0].SHA256)))
	f := firmwares(t) // it had variables like the first, and sections like the second
	known := append(constants(), event("TD HOB", must[[]byte](t)(TDHOB(f[1].sections(), 2<<30))))
	cfv := must[[]byte](t)(hex.DecodeString(f[0].CFV))
	var left []string
	for _, s := range Unknown(r.Steps[0], append(known, Event{Digest: Register(cfv)})) {
		left = append(left, s.What)
	}
	want := []string{`EV_PLATFORM_CONFIG_FLAGS "ACPI DATA"`, `EV_PLATFORM_CONFIG_FLAGS "ACPI DATA"`, `EV_PLATFORM_CONFIG_FLAGS "ACPI DATA"`}
	if len(left) != 3 || left[0] != want[0] || left[1] != want[1] || left[2] != want[2] {
		t.Errorf("%q, want %q", left, want)
	}
}

func TestRealLogsReplayToTheirRegisters(t *testing.T) {
	t.Parallel()
	_, _, logs := rtmrFile(t)
	for _, l := range logs {
		var all [runtime]register
		for _, e := range l.Events {
			all[e.Index-1].extend("", "", Register(must[[]byte](t)(hex.DecodeString(e.SHA384))))
		}
		for n, r := range all {
			if got, want := hex.EncodeToString(r.value[:]), l.Replayed["rtmr"+string(rune('0'+n))]; got != want {
				t.Errorf("%s: RTMR%d is %s, want %s", l.File, n, got, want)
			}
		}
		t.Run(l.File, func(t *testing.T) {
			t.Parallel()
			got := must[*Replayed](t)(Replay(unzip(t, "measure/tdx/"+l.File, l.SHA256)))
			var quoted [runtime]Register
			for n, r := range all {
				quoted[n] = r.value
				if _, differ := Differ(r.steps, got.Steps[n]); differ {
					t.Errorf("%d events of RTMR%d, want %d", len(got.Steps[n]), n, len(r.steps))
				}
			}
			if err := got.Compare(quoted); err != nil {
				t.Error(err)
			}
		})
	}
	if len(logs) != 4 {
		t.Errorf("%d logs", len(logs))
	}
}
