// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"go.uber.org/goleak"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/tpm/tpmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func soft(t *testing.T) (*TPM, tpmtest.TPM) {
	t.Helper()
	s := tpmtest.Start(t)
	return New(s.Open), s
}

func withAK(t *testing.T, s tpmtest.TPM, template tpm2.TPMTPublic) {
	t.Helper()
	s.Talk(t, func(c transport.TPM) error {
		_, err := tpmtest.Keep(c, AK, template)
		return err
	})
}

func digestOf(text string) []byte {
	d := sha256.Sum256([]byte(text))
	return d[:]
}

func TestAQuoteIsAboutTheRegistersAndTheRequest(t *testing.T) {
	t.Parallel()
	tpm, s := soft(t)
	withAK(t, s, tpmtest.AK())
	if err := tpm.Extend(t.Context(), 11, digestOf("kernel")); err != nil {
		t.Fatal(err)
	}
	q, err := tpm.Quote(t.Context(), AK, []byte("nonce"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(q.Message)
	if err := rsa.VerifyPKCS1v15(q.Key, crypto.SHA256, sum[:], q.Signature); err != nil {
		t.Error(err)
	}
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](q.Message)
	if err != nil || string(a.ExtraData.Buffer) != "nonce" {
		t.Errorf("a quote about %q (%v)", a.ExtraData.Buffer, err)
	}
	want := sha256.Sum256(append(make([]byte, 32), digestOf("kernel")...))
	if len(q.PCRs) != PCRs || !bytes.Equal(q.PCRs[11], want[:]) || !bytes.Equal(q.PCRs[12], make([]byte, 32)) {
		t.Errorf("%d registers, the 11th is %x", len(q.PCRs), q.PCRs[11])
	}
	one, err := tpm.PCR(t.Context(), 11)
	if err != nil || !bytes.Equal(one, want[:]) {
		t.Errorf("PCR 11 is %x (%v)", one, err)
	}
}

func TestAKeyThatCannotQuoteIsAnError(t *testing.T) {
	t.Parallel()
	tpm, s := soft(t)
	if _, err := tpm.Quote(t.Context(), AK, []byte("nonce")); err == nil || !strings.Contains(err.Error(), "made beforehand") {
		t.Errorf("without a key: %v", err)
	}
	other := tpmtest.AK()
	other.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
		Scheme: tpm2.TPMTRSAScheme{
			Scheme: tpm2.TPMAlgRSAPSS, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: tpm2.TPMAlgSHA256}),
		},
		KeyBits: 2048,
	})
	withAK(t, s, other)
	if _, err := tpm.Quote(t.Context(), AK, []byte("nonce")); err == nil || !strings.Contains(err.Error(), "want RSASSA") {
		t.Errorf("a key for RSAPSS: %v", err)
	}
}

func TestNVIsWrittenInTheSizeOfItsContent(t *testing.T) {
	t.Parallel()
	tpm, _ := soft(t)
	const index = 0x01400002
	if _, err := tpm.ReadNV(t.Context(), index); !errors.Is(err, ErrNoIndex) || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an index that nobody defined: %v", err)
	}
	for _, data := range [][]byte{[]byte("first"), []byte("other"), bytes.Repeat([]byte{7}, 64), []byte("x"), bytes.Repeat([]byte{8}, nvBufferSafe)} {
		if err := tpm.WriteNV(t.Context(), index, data); err != nil {
			t.Fatal(err)
		}
		if got, err := tpm.ReadNV(t.Context(), index); err != nil || !bytes.Equal(got, data) {
			t.Errorf("wrote %x, read %x (%v)", data, got, err)
		}
	}
	for _, data := range [][]byte{nil, make([]byte, nvBufferSafe+1)} {
		if err := tpm.WriteNV(t.Context(), index, data); err == nil {
			t.Errorf("%d bytes were written", len(data))
		}
	}
}

func TestLongNVIsReadInParts(t *testing.T) {
	t.Parallel()
	tpm, s := soft(t)
	const index, size = 0x01400001, 1700
	want := bytes.Repeat([]byte("0123456789"), size/10)
	s.Talk(t, func(c transport.TPM) error {
		if err := defineNV(c, index, size); err != nil {
			return err
		}
		_, at, err := nvPublic(c, index)
		for off := 0; err == nil && off < size; off += nvBufferSafe {
			part := want[off:min(off+nvBufferSafe, size)]
			_, err = tpm2.NVWrite{AuthHandle: owner(), NVIndex: at, Data: tpm2.TPM2BMaxNVBuffer{Buffer: part}, Offset: uint16(off)}.Execute(c)
		}
		return err
	})
	if got, err := tpm.ReadNV(t.Context(), index); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d (%v)", len(got), size, err)
	}
}

func TestInitDataIsBoundOnce(t *testing.T) {
	t.Parallel()
	tpm, _ := soft(t)
	if err := tpm.BindInitData(t.Context(), make([]byte, 48)); err == nil || !strings.Contains(err.Error(), "SHA-256 only") {
		t.Errorf("a digest of SHA-384: %v", err)
	}
	want := sha256.Sum256(append(make([]byte, 32), digestOf("document")...))
	for range 2 { // the guest role may start again
		if err := tpm.BindInitData(t.Context(), digestOf("document")); err != nil {
			t.Fatal(err)
		}
		if v, err := tpm.PCR(t.Context(), InitPCR); err != nil || !bytes.Equal(v, want[:]) {
			t.Errorf("PCR 8 is %x (%v)", v, err)
		}
	}
	if err := tpm.BindInitData(t.Context(), digestOf("another")); !errors.Is(err, ErrTaken) {
		t.Errorf("another document: %v", err)
	}
}

func TestRegistersThatAreNotThereAreRefused(t *testing.T) {
	t.Parallel()
	tpm := New(func(context.Context) (io.ReadWriteCloser, error) { return nil, errors.New("it was asked") })
	for name, err := range map[string]error{
		"read":         second(tpm.PCR(t.Context(), PCRs)),
		"extend":       tpm.Extend(t.Context(), PCRs, make([]byte, 32)),
		"short digest": tpm.Extend(t.Context(), 1, make([]byte, 20)),
		"long digest":  tpm.Extend(t.Context(), 1, make([]byte, 48)),
	} {
		if err == nil || strings.Contains(err.Error(), "it was asked") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ []byte, err error) error { return err }

func TestTheLogOfAGuestFitsItsRegisters(t *testing.T) {
	t.Parallel()
	tpm, s := soft(t)
	withAK(t, s, tpmtest.AK())
	dir := t.TempDir()
	a := NewAttester(tpm, AK, filepath.Join(dir, eventlog.File))
	regs, err := a.Registers()
	if err != nil {
		t.Fatal(err)
	}
	j, err := eventlog.Open(t.Context(), dir, regs)
	if err != nil {
		t.Fatal(err)
	}
	for _, pcr := range []uint64{17, 23} {
		if err := j.Measure(t.Context(), a.MapPCR(pcr), eventlog.Entry{Domain: "cocoon.test", Operation: "Run", Content: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := a.Evidence(t.Context(), []byte("digest"))
	if err != nil {
		t.Fatal(err)
	}
	var e Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	l, err := eventlog.Parse(e.EventLog)
	if err != nil {
		t.Fatal(err)
	}
	sums, err := l.Replay(eventlog.SHA256)
	if err != nil || len(sums) != 2 {
		t.Fatalf("%d registers (%v)", len(sums), err)
	}
	for n, v := range sums {
		if e.Quote.PCRs[n] != hex.EncodeToString(v) {
			t.Errorf("PCR %d is %s, the log gives %x", n, e.Quote.PCRs[n], v)
		}
	}
}

func TestRegistersOfTheDynamicRootAreNotUsed(t *testing.T) {
	t.Parallel()
	for pcr := range uint64(PCRs) {
		want := uint32(pcr)
		if pcr >= 17 && pcr <= 22 {
			want = 15
		}
		if got := MapPCR(pcr); got != want {
			t.Errorf("PCR %d becomes %d, want %d", pcr, got, want)
		}
	}
}

// scripted answers each command with the next of its answers.
type scripted struct {
	answers [][]byte
	got     int
	rest    []byte
}

func (s *scripted) Write(b []byte) (int, error) {
	if s.got == len(s.answers) {
		return 0, io.ErrClosedPipe
	}
	s.rest = s.answers[s.got]
	s.got++
	return len(b), nil
}

func (s *scripted) Read(b []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), 7)], s.rest) // in small parts, as a stream may
	s.rest = s.rest[n:]
	return n, nil
}

func (*scripted) Close() error { return nil }

func answer(code tpm2.TPMRC, body ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, 0x8001)
	b = binary.BigEndian.AppendUint32(b, uint32(responseHead+len(body)))
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, body...)
}

func opening(s *scripted) Opener {
	return func(context.Context) (io.ReadWriteCloser, error) { return s, nil }
}

func TestABusyTPMIsAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{answers: [][]byte{answer(tpm2.TPMRCRetry), answer(tpm2.TPMRCYielded), answer(tpm2.TPMRCHandle | 0x100)}}
		if _, err := New(opening(s)).ReadNV(t.Context(), 1); !errors.Is(err, ErrNoIndex) {
			t.Error(err)
		}
		always := &scripted{}
		for range busyTries {
			always.answers = append(always.answers, answer(tpm2.TPMRCRetry))
		}
		if _, err := New(opening(always)).ReadNV(t.Context(), 1); !errors.Is(err, tpm2.TPMRCRetry) {
			t.Errorf("a TPM that is busy for ever: %v", err)
		}
	})
}

func TestWhatATPMGetsWrongIsAnError(t *testing.T) {
	t.Parallel()
	long := answer(0)
	binary.BigEndian.PutUint32(long[2:], maxResponse+1)
	more := append(answer(0), 1, 2, 3, 4, 5, 6, 7, 8)
	for name, tc := range map[string]struct {
		answer []byte
		want   string
	}{
		"nothing":           {nil, "EOF"},
		"less than a head":  {answer(0)[:9], "EOF"},
		"cut short":         {answer(0, 1, 2, 3)[:11], "EOF"},
		"too long":          {long, "of which it says"},
		"more than it says": {more, "of which it says"},
		"empty success":     {answer(0), ""},
		"failure mode":      {answer(tpm2.TPMRCFailure), "TPM_RC_FAILURE"},
		"no registers":      {answer(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0), "SHA-256 bank"},
	} {
		_, err := New(opening(&scripted{answers: [][]byte{tc.answer}})).PCR(t.Context(), 1)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// silent never answers until it is closed.
type silent struct {
	closed chan struct{}
	once   sync.Once
}

func (s *silent) Read([]byte) (int, error)  { <-s.closed; return 0, io.EOF }
func (*silent) Write(b []byte) (int, error) { return len(b), nil }
func (*silent) Close() error                { return nil }
func (s *silent) wake()                     { s.once.Do(func() { close(s.closed) }) }

func TestASilentTPMIsNotWaitedForBeyondTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &silent{closed: make(chan struct{})}
		defer s.wake()
		tpm := New(func(context.Context) (io.ReadWriteCloser, error) { return s, nil })
		for _, want := range []string{"wait for the TPM's answer", "wait for the TPM:"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			_, err := tpm.PCR(ctx, 1)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
			cancel()
		}
	})
}

func TestAMissingDeviceIsToldApart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Device(filepath.Join(dir, "a"), filepath.Join(dir, "b"))(t.Context()); !errors.Is(err, ErrUnsupported) {
		t.Errorf("no device: %v", err)
	}
	second := filepath.Join(dir, "b")
	if err := os.WriteFile(second, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Device(filepath.Join(dir, "a"), second)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Device(dir)(t.Context()); err == nil || errors.Is(err, ErrUnsupported) {
		t.Errorf("a folder in its place: %v", err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(answer(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0))
	f.Add(answer(tpm2.TPMRCHandle))
	f.Add([]byte{0x80, 2, 0, 0, 0, 10})
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		// A second answer ends what asks again.
		s := &scripted{answers: [][]byte{b, answer(tpm2.TPMRCFailure)}}
		if v, err := New(opening(s)).PCR(ctx, 1); err == nil && len(v) != sha256.Size {
			t.Errorf("a register of %d bytes", len(v))
		}
		s = &scripted{answers: [][]byte{b, b, b, b, answer(tpm2.TPMRCFailure)}}
		if q, err := New(opening(s)).Quote(ctx, AK, []byte("nonce")); err == nil && len(q.PCRs) != PCRs {
			t.Errorf("a quote with %d registers", len(q.PCRs))
		}
	})
}
