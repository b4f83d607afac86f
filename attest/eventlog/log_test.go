// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"cocoon/internal/sharedtest"
)

func TestLogsReplayToTheRegistersOfTheirMachines(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]string{
		"CCEL_data":          {"2dc712306a963eadb894ad47dbaa17df44814151555aee11cbb843becca88950ffd079664902e6f22c66f7c8213543f4", "0fa3be56af61208bbd179dc7b124988eb929319154663c539d6f46445ecac2fec287075047ff7bd1922829fec28cd3cf", "", ""},
		"CCEL_data_ovmf":     {"8566f998798db09443b244c62de9a3041fb02e2e6936c4396d784bba2e90177329ec5aba3bb484404f2ab9cc90abe193", "775b9f6bfe99f8a31396f0d0218e67ffa796d3b96ccf961cbb0deba48c79c00f082cda1a5567c1c16305f1fc210c13c6", "94eaf7a7bf398ed8d888c91057ae0261802e4f3df084213a76ca7f0b5055ac9d2241de43cd58d9e8b49c503bbf25f34a", ""},
		"CCEL_data_grub":     {"cec0a104f691f60da2387fea3c2de00c4ac035e2bb479ff02edcce69039d9e9907f0b3e55031da3dc7038f423adebd79", "6c289e0c62182d41ebe97bdbc9872d10998a08eaa86adcdc684001a363207ee72942c7522cdf00a4bbc3d784bed7b670", "08919d017ba0e52cd6d966351c7de16fe76c1d3d3d3da4554239e4c7d16cb8b82a94e7eaea3a0e6e18eb690b999fd31e", ""},
		"CCEL_data_grub_gke": {"bc9945139042cf2cc75caf920aa57f14884ecfd7e893bccc51250c8ce90eb53ce72741e6adaa18183eb1331a87d4544a", "c17cb288a4dee302bb9ed8d27257a168f3264ad68cab53757f37eeaa7039657fa887cad65cf910e0fdc435ff110f8a7b", "334aeba2c985f8886cea97d1ecffbd512769d528b9a94009583db667ad7d2faa7d37fa145d75b192ceee2d2f10b2eb6d", ""},
	} {
		l, err := Parse(sharedtest.Read(t, "evidence/eventlog/"+name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := l.Replay(SHA384)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, text := range want {
			if hex.EncodeToString(got[uint32(i+1)]) != text {
				t.Errorf("%s: RTMR%d is %x, want %s", name, i, got[uint32(i+1)], text)
			}
		}
	}
}

// Firmware of a machine with a TPM logs digests by SHA-1 too, which say nothing.
func TestLogsOfTPMsReplayToTheirRegisters(t *testing.T) {
	t.Parallel()
	var file struct {
		Boots []struct {
			EventLog string
			PCRs     map[string]map[string]string
		}
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/pcr/pcr.json"), &file); err != nil {
		t.Fatal(err)
	}
	for _, boot := range file.Boots {
		l, err := Parse(sharedtest.Read(t, "measure/pcr/"+boot.EventLog))
		if err != nil {
			t.Fatalf("%s: %v", boot.EventLog, err)
		}
		for bank, alg := range map[string]Alg{"sha256": SHA256, "sha384": SHA384} {
			got, err := l.Replay(alg)
			if err != nil || len(got) < 8 {
				t.Errorf("%s by %s: %d registers, %v", boot.EventLog, alg, len(got), err)
			}
			for pcr, value := range got {
				if want := boot.PCRs[bank][strconv.Itoa(int(pcr))]; hex.EncodeToString(value) != want {
					t.Errorf("%s: PCR %d by %s is %x, want %s", boot.EventLog, pcr, alg, value, want)
				}
			}
		}
		if values, err := l.Replay(SHA1); !errors.Is(err, ErrLog) {
			t.Errorf("%s by SHA-1: %x, %v", boot.EventLog, values, err)
		}
	}
	if len(file.Boots) != 6 {
		t.Errorf("%d boots", len(file.Boots))
	}
}

func TestClaimsOfALogAreThoseOfTrustee(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"CCEL_data", "CCEL_data_ovmf", "CCEL_data_grub", "CCEL_data_grub_gke", "CCEL_AAEL_alibabacloud", "CCEL_data_csv"} {
		l, err := Parse(sharedtest.Read(t, "evidence/eventlog/"+name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		claims, err := l.Claims()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var want struct {
			Logs []map[string]any `json:"uefi_event_logs"`
		}
		if err := json.Unmarshal(sharedtest.Read(t, "evidence/eventlog/"+name+"_out.json"), &want); err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		var got []map[string]any
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want.Logs) {
			t.Fatalf("%s: %d events, want %d", name, len(got), len(want.Logs))
		}
		for i := range got {
			for _, member := range []string{"index", "type_name", "event", "digests", "details", "digest_matches_event"} {
				if !reflect.DeepEqual(got[i][member], want.Logs[i][member]) {
					t.Errorf("%s: event %d (%v): %s is %v, want %v", name, i, got[i]["type_name"], member, got[i][member], want.Logs[i][member])
				}
			}
		}
	}
}

func TestAnEntryHasTheDigestOfThePeers(t *testing.T) {
	t.Parallel()
	e := Entry{"domain", "operation", "content"}
	for alg, want := range map[Alg]string{
		SHA384: "dad5f0e226318ffa9839b75a472c6aa7fdb5834949d0a0a22990cf04d5692440fb00f3aa0609db7e49cd8d793f670d02",
	} {
		if got := hex.EncodeToString(e.Event(4, alg).Sum(alg)); got != want {
			t.Errorf("%s: %s", alg, got)
		}
	}
	if got := hex.EncodeToString(e.Event(23, SHA256).Sum(SHA256)); !strings.HasPrefix(got, "46df8dac") || !strings.HasSuffix(got, "96351") {
		t.Errorf("SHA-256: %s", got)
	}
}

func TestAnEntryComesBackFromALogThatNoFirmwareBegan(t *testing.T) {
	t.Parallel()
	entries := []Entry{{"a.example", "Pull", `{"x":1}`}, {"b", "c", ""}, {"b", "c", "with spaces in it"}}
	var agent []byte
	for i, e := range entries {
		agent = e.Event(uint32(4+i), SHA384).Append(agent)
	}
	all, err := Join(nil, agent)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Parse(all)
	if err != nil || len(l.Events) != len(entries) || l.Size != len(all)-endMark {
		t.Fatalf("%+v, %v", l, err)
	}
	for i, want := range entries {
		if got, ok := l.Events[i].AsEntry(); !ok || got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	again, err := Join(all, agent)
	if err != nil {
		t.Fatal(err)
	}
	if l, err = Parse(again); err != nil || len(l.Events) != 2*len(entries) {
		t.Errorf("continued: %v", err)
	}
	if b, err := Join(nil, nil); b != nil || err != nil {
		t.Errorf("of nothing: %x, %v", b, err)
	}
	if _, err := Join([]byte("x"), nil); !errors.Is(err, ErrLog) {
		t.Errorf("of rubbish: %v", err)
	}
}

func TestEntriesThatMakeALogAmbiguousAreRefused(t *testing.T) {
	t.Parallel()
	for _, e := range []Entry{{"", "o", ""}, {"d", "", ""}, {"d d", "o", ""}, {"d", "o o", ""}, {"d\n", "o", ""}, {"d", "o", "a\nb"}, {"d", "o", strings.Repeat("x", maxEntry)}} {
		if err := e.Check(); !errors.Is(err, ErrEntry) {
			t.Errorf("%.20v: %v", e, err)
		}
	}
	if err := (Entry{"d", "o", "any content"}).Check(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoLogIsRefused(t *testing.T) {
	t.Parallel()
	valid := Entry{"d", "o", "c"}.Event(1, SHA384).Append(Header())
	for name, b := range map[string][]byte{
		"nothing":             nil,
		"a cut header":        Header()[:40],
		"another first event": append([]byte{0, 0, 0, 0, 9}, Header()[5:]...),
		"no algorithms":       bytes.Replace(Header(), []byte{3, 0, 0, 0, 0xc, 0}, []byte{0, 0, 0, 0, 0xc, 0}, 1),
		"many algorithms":     bytes.Replace(Header(), []byte{3, 0, 0, 0, 0xc, 0}, []byte{3, 1, 0, 0, 0xc, 0}, 1),
		"an odd size":         bytes.Replace(Header(), []byte{0xc, 0, 48, 0}, []byte{0xc, 0, 49, 0}, 1),
		"a cut event":         valid[:len(valid)-1],
		"an endless event":    append(Header(), Event{Type: EvTag, Digests: make([]Digest, 9)}.Append(nil)...),
		"an alien digest":     append(Header(), Event{Type: EvTag, Digests: []Digest{{SHA512, make([]byte, 64)}}}.Append(nil)...),
		"too long":            make([]byte, MaxSize+1),
	} {
		if l, err := Parse(b); !errors.Is(err, ErrLog) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	l, err := Parse(append(Header(), Event{Register: 1, Type: 0x77}.Append(nil)...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Claims(); !errors.Is(err, ErrLog) {
		t.Errorf("an unknown type: %v", err)
	}
	if _, err := l.Replay(SHA384); !errors.Is(err, ErrLog) {
		t.Errorf("an event without a digest: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(append(Entry{"d", "o", "c"}.Event(1, SHA384).Append(Header()), bytes.Repeat([]byte{0xff}, 8)...))
	f.Add(Event{Register: 1, Type: efiBootServices, Data: make([]byte, 40)}.Append(Header()))
	f.Add(Event{Register: 1, Type: efiVarBoot, Data: make([]byte, 40)}.Append(Header()))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Parse(b)
		if err != nil {
			return
		}
		if l.Size > len(b) {
			t.Errorf("%d of %d bytes", l.Size, len(b))
		}
		if claims, err := l.Claims(); err == nil && len(claims) != len(l.Events) {
			t.Errorf("%d claims of %d events", len(claims), len(l.Events))
		}
	})
}
