// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOptionsAreToldApart(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		items []string
		want  Options
	}{
		{nil, Options{}},
		{[]string{"defaults", "rw"}, Options{}},
		{[]string{"ro", "nosuid"}, Options{Flags: unix.MS_RDONLY | unix.MS_NOSUID}},
		{[]string{"ro", "rw"}, Options{}},
		{[]string{"ro,noexec,size=1"}, Options{Flags: unix.MS_RDONLY | unix.MS_NOEXEC, Data: []string{"size=1"}}},
		{[]string{"rbind", "rslave"}, Options{Flags: unix.MS_BIND | unix.MS_REC, Propagation: unix.MS_SLAVE | unix.MS_REC}},
		{[]string{"a=b", "c"}, Options{Data: []string{"a=b", "c"}}},
	} {
		got, err := ParseOptions(tc.items)
		if err != nil || got.Flags != tc.want.Flags || got.Propagation != tc.want.Propagation || !slices.Equal(got.Data, tc.want.Data) {
			t.Errorf("%q: %+v (%v), want %+v", tc.items, got, err, tc.want)
		}
	}
	for _, bad := range [][]string{{"loop"}, {"a,loop"}, {"a\x00b"}, {strings.Repeat("a", os.Getpagesize())}, slices.Repeat([]string{"abc"}, os.Getpagesize()/4+1)} {
		if _, err := ParseOptions(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.20q: %v, want ErrInvalid", bad, err)
		}
	}
}

func FuzzParseOptions(f *testing.F) {
	for _, s := range []string{"ro,nosuid", "size=1\nmode=1777", "loop", "rbind\nrslave\n\x00", ",,,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o, err := ParseOptions(strings.Split(text, "\n"))
		if err != nil {
			return
		}
		total := 0
		for _, w := range o.Data {
			if _, isFlag := flagOf(w); isFlag || w == "" || w == "loop" || strings.ContainsAny(w, ",\x00") {
				t.Fatalf("data word %q", w)
			}
			total += len(w) + 1
		}
		if total > os.Getpagesize() {
			t.Fatalf("%d bytes of data", total)
		}
	})
}
