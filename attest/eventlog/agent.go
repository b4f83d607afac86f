// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"cocoon/internal/bounded"
)

// agentTag marks an entry of the attestation agent, "AAEL".
const agentTag = 0x4141454C

// Entry is what the attestation agent measures: who, what, and about what.
type Entry struct {
	Domain, Operation, Content string
}

// ErrEntry is returned for an entry that would make a log ambiguous.
var ErrEntry = errors.New("invalid measurement")

// Check refuses what cannot be told apart in a log: the three parts are joined
// by spaces, and a line is one event.
func (e Entry) Check() error {
	switch {
	case e.Domain == "" || e.Operation == "":
		return fmt.Errorf("%w: no domain or no operation", ErrEntry)
	case strings.ContainsAny(e.Domain+e.Operation, " \n\r"):
		return fmt.Errorf("%w: space in domain %.64q or operation %.64q", ErrEntry, e.Domain, e.Operation)
	case strings.Contains(e.Content, "\n"):
		return fmt.Errorf("%w: line break in its content", ErrEntry)
	case len(e.text()) > maxEntry:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrEntry, len(e.text()), maxEntry)
	}
	return nil
}

// maxEntry bounds an entry's text, in bytes.
const maxEntry = 64 << 10

func (e Entry) text() string { return e.Domain + " " + e.Operation + " " + e.Content }

// Event returns the entry as an event of a register, measured with one
// algorithm.
func (e Entry) Event(register uint32, a Alg) Event {
	text := e.text()
	data := binary.LittleEndian.AppendUint32(nil, agentTag)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(text)))
	data = append(data, text...)
	return Event{Register: register, Type: EvTag, Digests: []Digest{{a, a.Sum(data)}}, Data: data}
}

// AsEntry returns the entry of the attestation agent that an event is.
func (e Event) AsEntry() (Entry, bool) {
	if e.Type != EvTag || len(e.Data) < 8 || binary.LittleEndian.Uint32(e.Data) != agentTag {
		return Entry{}, false
	}
	text := e.Data[8:]
	if binary.LittleEndian.Uint32(e.Data[4:]) != uint32(len(text)) {
		return Entry{}, false
	}
	parts := strings.SplitN(string(text), " ", 3)
	if len(parts) != 3 {
		return Entry{}, false
	}
	return Entry{parts[0], parts[1], parts[2]}, true
}

// Append adds the event in its binary form to b.
func (e Event) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, e.Register)
	b = binary.LittleEndian.AppendUint32(b, e.Type)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Digests)))
	for _, d := range e.Digests {
		b = append(binary.LittleEndian.AppendUint16(b, uint16(d.Alg)), d.Sum...)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Data)))
	return append(b, e.Data...)
}

// Header returns the first entry of a log that no firmware has begun. It
// declares the algorithms that the agent's entries may have.
func Header() []byte {
	algs := []Alg{SHA384, SM3, SHA256}
	data := make([]byte, 24)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(algs)))
	for _, a := range algs {
		data = binary.LittleEndian.AppendUint16(data, uint16(a))
		data = binary.LittleEndian.AppendUint16(data, uint16(a.Size()))
	}
	data = append(data, 0) // no vendor information
	b := binary.LittleEndian.AppendUint32(nil, 0)
	b = binary.LittleEndian.AppendUint32(b, EvNoAction)
	b = append(b, make([]byte, sha1Size)...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// Join puts the log of the firmware and the entries of the agent together, as
// evidence carries them. It returns nil if there is neither. What follows the
// firmware's last event is left out.
func Join(firmware, agent []byte) ([]byte, error) {
	if len(firmware) == 0 && len(agent) == 0 {
		return nil, nil
	}
	b := Header()
	if len(firmware) > 0 {
		l, err := Parse(firmware)
		if err != nil {
			return nil, err
		}
		b = bytes.Clone(firmware[:l.Size])
	}
	b = append(b, agent...)
	return append(b, bytes.Repeat([]byte{0xff}, endMark)...), nil
}

// OfAgent returns the log of the attestation agent's entries in a file, for a
// TEE whose registers no firmware's log is about. It returns nil if there is no
// entry.
func OfAgent(name string) ([]byte, error) {
	entries, err := ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the event log: %w", err)
	}
	return Join(nil, entries)
}

// ReadFile returns the content of a log of at most MaxSize bytes, nil if there
// is no such file.
func ReadFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened to read; its error says nothing
	return bounded.ReadAll(f, MaxSize)
}
