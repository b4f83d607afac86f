// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"cocoon/internal/sharedtest"
)

func TestTheHeaderOfS390ToolsIsRead(t *testing.T) {
	t.Parallel()
	var file struct {
		Header struct {
			File      string
			IV        string `json:"iv_hex"`
			Slots     int    `json:"nks"`
			Pages     uint64 `json:"nep"`
			Flags     string `json:"pcf_hex"`
			Key       string `json:"cust_pub_key_hex"`
			Content   string `json:"pld_hex"`
			Addresses string `json:"ald_hex"`
			Tweaks    string `json:"tld_hex"`
			HostKey   string `json:"keyslot0_phkh_hex"`
			Tag       string `json:"tag_hex"`
		} `json:"se_header"`
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/se/se.json"), &file); err != nil {
		t.Fatal(err)
	}
	want := file.Header
	raw := sharedtest.Read(t, "measure/se/"+want.File)
	h, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	flags := hex.EncodeToString(binary.BigEndian.AppendUint64(nil, h.Flags))
	for _, x := range []struct {
		what string
		got  []byte
		want string
	}{
		{"IV", h.IV[:], want.IV}, {"customer key", h.CustomerKey[:], want.Key}, {"pages", h.Content[:], want.Content}, {"addresses", h.Addresses[:], want.Addresses},
		{"tweaks", h.Tweaks[:], want.Tweaks}, {"host key", h.HostKeys[0][:], want.HostKey}, {"tag", h.Tag[:], want.Tag},
	} {
		if got := hex.EncodeToString(x.got); got != x.want {
			t.Errorf("%s: %s, want %s", x.what, got, x.want)
		}
	}
	if len(h.HostKeys) != want.Slots || h.Pages != want.Pages || flags != want.Flags || h.AllowsDump() || h.Plain() || !bytes.Equal(h.Raw, raw) {
		t.Errorf("%d slots, %d pages, flags %s", len(h.HostKeys), h.Pages, flags)
	}
}

// header makes one with two key slots. Every field is of a byte of its own.
func header() []byte {
	var b []byte
	fill := func(c byte, n int) { b = append(b, bytes.Repeat([]byte{c}, n)...) }
	b = append(b, mark...)
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint32(b, fixedSize+2*slotSize+minSecret+tagSize)
	fill(1, 12)
	fill(0, 4)
	for _, n := range []uint64{2, minSecret, 7, 0x30000000} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	fill(2, 160)
	for c := byte(3); c < 6; c++ {
		fill(c, digestSize)
	}
	for c := byte(6); c < 8; c++ {
		fill(c, 32)
		fill(0xff, 48)
	}
	fill(0xfe, minSecret)
	fill(9, tagSize)
	return b
}

func TestEveryFieldHasItsPlace(t *testing.T) {
	t.Parallel()
	h, err := Parse(header())
	if err != nil {
		t.Fatal(err)
	}
	for want, got := range map[byte][]byte{1: h.IV[:], 2: h.CustomerKey[:], 3: h.Content[:], 4: h.Addresses[:], 5: h.Tweaks[:], 6: h.HostKeys[0][:], 7: h.HostKeys[1][:], 9: h.Tag[:]} {
		if bytes.Count(got, []byte{want}) != len(got) {
			t.Errorf("field %d is %x", want, got)
		}
	}
	if h.Pages != 7 || !h.AllowsDump() || !h.Plain() || len(h.HostKeys) != 2 {
		t.Errorf("%+v", h)
	}
}

func TestWhatIsNoHeaderIsRefused(t *testing.T) {
	t.Parallel()
	put := binary.BigEndian.PutUint32
	for name, change := range map[string]func([]byte) []byte{
		"nothing": func([]byte) []byte { return nil }, "mark": func(b []byte) []byte { b[0]++; return b }, "version": func(b []byte) []byte { b[10]++; return b },
		"cut": func(b []byte) []byte { return b[:len(b)-1] }, "longer": func(b []byte) []byte { return append(b, 0) }, "beginning": func(b []byte) []byte { return b[:fixedSize-1] },
		"small": func(b []byte) []byte { put(b[12:], fixedSize-1); return b }, "huge": func(b []byte) []byte { put(b[12:], 0xffffffff); return b },
		"large": func(b []byte) []byte {
			put(b[12:], MaxHeader+1)
			return append(b, make([]byte, MaxHeader+1-len(b))...)
		},
		"no slots": func(b []byte) []byte { put(b[36:], 0); return b }, "a slot more": func(b []byte) []byte { put(b[36:], 3); return b },
		"endless slots": func(b []byte) []byte { put(b[32:], 0x33333333); return b }, "little encrypted": func(b []byte) []byte { put(b[44:], minSecret-1); return b },
		"endless encrypted": func(b []byte) []byte { put(b[40:], 0xffffffff); return b },
		"sum that overflows": func(b []byte) []byte {
			put(b[36:], maxSlots) // and as many encrypted bytes less than none as make the sum right
			binary.BigEndian.PutUint64(b[40:], -uint64(fixedSize+maxSlots*slotSize+tagSize-len(b)))
			return b
		},
	} {
		if h, err := Parse(change(header())); !errors.Is(err, ErrHeader) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func TestTheHeaderOfAnImageIsFound(t *testing.T) {
	t.Parallel()
	image := make([]byte, 0x16000)
	copy(image[0x14000:], header())
	copy(image[0x2000:], mark) // content that looks like one
	copy(image[0x5800:], header())
	h, err := Find(image)
	if err != nil || !bytes.Equal(h.Raw, header()) {
		t.Errorf("%+v, %v", h, err)
	}
	short := append(make([]byte, pageSize), header()...)
	if h, err := Find(short); err != nil || h.Tag[0] != 9 {
		t.Errorf("at the end: %+v, %v", h, err)
	}
	copy(image[0x3000:], header())
	for name, b := range map[string][]byte{"two headers": image, "none": make([]byte, 0x16000), "nothing": nil, "a cut one": short[:len(short)-1]} {
		if h, err := Find(b); !errors.Is(err, ErrHeader) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

// What looks like a header and is none is more of a help than that there is none.
func TestTheReasonWhyAHeaderIsNoneIsTold(t *testing.T) {
	t.Parallel()
	image := make([]byte, 0x16000)
	copy(image[0x14000:], header())
	binary.BigEndian.PutUint32(image[0x14000+12:], MaxHeader+1)
	if h, err := Find(image); !errors.Is(err, ErrHeader) || !strings.Contains(err.Error(), "at 0x14000: ") || !strings.Contains(err.Error(), "of 8193 bytes") {
		t.Errorf("%+v, %v", h, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(header())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrHeader) {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(h.Raw, b) || len(h.HostKeys) == 0 || len(h.HostKeys) > maxSlots {
			t.Errorf("%d bytes, %d host keys", len(h.Raw), len(h.HostKeys))
		}
		found, err := Find(b)
		if err != nil || !bytes.Equal(found.Raw, b) {
			t.Errorf("it is not found in itself: %v", err)
		}
	})
}
