// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"crypto/sha512"
	"errors"
	"slices"
	"strings"
	"testing"

	"cocoon/attest/eventlog"
)

// logged makes a log of events with their digests by an algorithm.
func logged(alg eventlog.Alg, events ...eventlog.Event) []byte {
	b := eventlog.Header()
	for _, e := range events {
		e.Digests = []eventlog.Digest{{Alg: alg, Sum: alg.Sum(e.Data)}}
		b = e.Append(b)
	}
	return b
}

// bootLog is of a machine that boots as boot says, as far as RTMR1 and RTMR2 go,
// with an entry of the agent.
func bootLog(t *testing.T) ([]byte, []Step) {
	t.Helper()
	b := boot()
	_, steps, err := b.RTMR1()
	if err != nil {
		t.Fatal(err)
	}
	out := eventlog.Header()
	for _, s := range steps {
		out = eventlog.Event{Register: 2, Type: 0x80000007, Digests: []eventlog.Digest{{Alg: eventlog.SHA384, Sum: s.Digest[:]}}, Data: []byte("action")}.Append(out)
	}
	entry := eventlog.Entry{Domain: "example.org", Operation: "pull", Content: "image"}.Event(4, eventlog.SHA384)
	return entry.Append(out), steps
}

func TestALogIsReplayedRegisterByRegister(t *testing.T) {
	t.Parallel()
	raw, steps := bootLog(t)
	r, err := Replay(raw)
	if err != nil {
		t.Fatal(err)
	}
	if r.Values[0] != (Register{}) || r.Values[1] != steps[len(steps)-1].Value || r.Values[2] != (Register{}) {
		t.Errorf("values %x", r.Values)
	}
	entry := eventlog.Entry{Domain: "example.org", Operation: "pull", Content: "image"}.Event(4, eventlog.SHA384)
	if want := Register(sha512.Sum384(append(make([]byte, 48), entry.Digests[0].Sum...))); r.Values[3] != want {
		t.Errorf("RTMR3 is %x, want %x", r.Values[3], want)
	}
	if at, differ := Differ(steps, r.Steps[1]); differ {
		t.Errorf("event %d differs", at)
	}
	if err := r.Compare(r.Values); err != nil {
		t.Error(err)
	}
}

func TestRegistersThatDifferAreNamed(t *testing.T) {
	t.Parallel()
	raw, _ := bootLog(t)
	r, err := Replay(raw)
	if err != nil {
		t.Fatal(err)
	}
	for n := range r.Values {
		quoted := r.Values
		quoted[n][47]++
		err := r.Compare(quoted)
		if !errors.Is(err, ErrMismatch) || strings.Count(err.Error(), "RTMR") != 1 || !strings.Contains(err.Error(), "RTMR"+string(rune('0'+n))) {
			t.Errorf("RTMR%d: %v", n, err)
		}
	}
	if err := r.Compare([runtime]Register{{1}, {1}, {1}, {1}}); strings.Count(err.Error(), "RTMR") != runtime {
		t.Error(err)
	}
}

func TestTheFirstEventThatDiffersIsFound(t *testing.T) {
	t.Parallel()
	_, steps := bootLog(t)
	other := slices.Clone(steps)
	other[2].Digest[0]++
	for name, tc := range map[string]struct {
		a, b   []Step
		at     int
		differ bool
	}{
		"none": {steps, slices.Clone(steps), len(steps), false}, "third": {steps, other, 2, true}, "cut": {steps, steps[:3], 3, true}, "longer": {steps[:1], steps, 1, true},
		"empty": {nil, nil, 0, false}, "nothing": {nil, steps, 0, true},
	} {
		if at, differ := Differ(tc.a, tc.b); at != tc.at || differ != tc.differ {
			t.Errorf("%s: %d, %t", name, at, differ)
		}
	}
}

func TestLogsThatConfirmNothingAreRefused(t *testing.T) {
	t.Parallel()
	action := func(register uint32) eventlog.Event {
		return eventlog.Event{Register: register, Type: 0x80000007, Data: []byte("x")}
	}
	for name, raw := range map[string][]byte{
		"nothing": nil, "no header": []byte("event log"), "register of MRTD": logged(eventlog.SHA384, action(0)), "fifth register": logged(eventlog.SHA384, action(5)),
		"another algorithm": logged(eventlog.SHA256, action(1)), "cut": logged(eventlog.SHA384, action(1))[:100],
	} {
		if r, err := Replay(raw); !errors.Is(err, eventlog.ErrLog) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestEventsThatExtendNothingDoNotCount(t *testing.T) {
	t.Parallel()
	r, err := Replay(logged(eventlog.SHA384, eventlog.Event{Register: 7, Type: eventlog.EvNoAction, Data: []byte("x")}))
	if err != nil || r.Values != ([runtime]Register{}) {
		t.Errorf("%x, %v", r, err)
	}
}

func TestEventsAreNamedByWhatTheySay(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]eventlog.Event{
		"event of type 0x1234":                   {Type: 0x1234},
		"EV_SEPARATOR":                           {Type: 4, Data: make([]byte, 4)},
		`EV_EFI_ACTION "Calling"`:                {Type: 0x80000007, Data: []byte("Calling")},
		`EV_EVENT_TAG "LOADED_IMAGE"`:            {Type: 6, Data: []byte("\x01\x00\x00\x00\x0d\x00\x00\x00LOADED_IMAGE\x00")},
		`EV_EFI_VARIABLE_DRIVER_CONFIG "PK"`:     {Type: 0x80000001, Data: variable("0123456789abcdef", "PK")},
		"EV_EFI_BOOT_SERVICES_APPLICATION":       {Type: 0x80000003, Data: []byte("short")},
		"EV_PLATFORM_CONFIG_FLAGS \"a\\x01\\n\"": {Type: 10, Data: []byte("a\x01\n")},
	} {
		if got := describe(e); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func FuzzReplay(f *testing.F) {
	f.Add(logged(eventlog.SHA384, eventlog.Event{Register: 1, Type: 4, Data: make([]byte, 4)}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := Replay(raw)
		if err != nil {
			if !errors.Is(err, eventlog.ErrLog) {
				t.Error(err)
			}
			return
		}
		for n, steps := range r.Steps {
			if len(steps) > 0 && steps[len(steps)-1].Value != r.Values[n] || len(steps) == 0 && r.Values[n] != (Register{}) {
				t.Errorf("RTMR%d is not the value of its last step", n)
			}
		}
	})
}
