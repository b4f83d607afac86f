// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package klog_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"cocoon/internal/klog"
)

// records keeps each Write as one element, as /dev/kmsg does.
type records struct{ got []string }

func (r *records) Write(p []byte) (int, error) {
	r.got = append(r.got, string(p))
	return len(p), nil
}

func TestEachLineBecomesOneRecordWithItsPriority(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", klog.MaxRecord)
	for name, tc := range map[string]struct {
		p    klog.Priority
		text string
		want []string
	}{
		"one line":               {klog.Info, "hello", []string{"<14>hello\n"}},
		"error":                  {klog.Error, "bad\n", []string{"<11>bad\n"}},
		"two lines":              {klog.Warning, "a\nb\n", []string{"<12>a\n", "<12>b\n"}},
		"empty lines vanish":     {klog.Info, "\n\na\r\n\n", []string{"<14>a\n"}},
		"nothing":                {klog.Info, "", nil},
		"control characters":     {klog.Info, "a\x1b[2Jb\x00c\td", []string{"<14>a?[2Jb?c\td\n"}},
		"carriage return inside": {klog.Info, "a\rb", []string{"<14>a?b\n"}},
		"exactly one record":     {klog.Debug, long, []string{"<15>" + long + "\n"}},
		"one byte more":          {klog.Debug, long + "y", []string{"<15>" + long + "\n", "<15>y\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r records
			if err := klog.New(&r, klog.Limit{}).Record(tc.p, tc.text); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(r.got, tc.want) {
				t.Errorf("got %q, want %q", r.got, tc.want)
			}
		})
	}
}

func TestAnEndlessLineIsCutAndSaysSo(t *testing.T) {
	t.Parallel()
	var r records
	if err := klog.New(&r, klog.Limit{}).Record(klog.Info, strings.Repeat("x", 1<<20)); err != nil {
		t.Fatal(err)
	}
	if len(r.got) != klog.MaxPieces {
		t.Fatalf("got %d records, want %d", len(r.got), klog.MaxPieces)
	}
	if last := r.got[len(r.got)-1]; !strings.HasSuffix(last, " bytes cut]\n") {
		t.Errorf("last record %q does not say that it was cut", last[max(0, len(last)-40):])
	}
}

func TestTheRateLimitDropsCountsAndReports(t *testing.T) {
	t.Parallel()
	var r records
	l := klog.New(&r, klog.Limit{PerSecond: 1e-9, Burst: 2})
	for range 5 {
		if err := l.Record(klog.Info, "noise"); err != nil {
			t.Fatal(err)
		}
	}
	if got := l.Dropped(); len(r.got) != 2 || got != 3 {
		t.Fatalf("got %d records and %d dropped, want 2 and 3", len(r.got), got)
	}
	if err := l.Record(klog.Error, "the reason"); err != nil {
		t.Fatal(err)
	}
	want := []string{"<14>noise\n", "<14>noise\n", "<12>klog: 3 lines dropped by the rate limit\n", "<11>the reason\n"}
	if !slices.Equal(r.got, want) {
		t.Errorf("got %q, want %q", r.got, want)
	}
	if l.Dropped() != 0 {
		t.Errorf("%d lines still count as dropped after the report", l.Dropped())
	}
}

type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

func TestAFailedWriteIsReported(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	if err := klog.New(broken{boom}, klog.Limit{}).Record(klog.Info, "x"); !errors.Is(err, boom) {
		t.Errorf("got %v, want the writer's error", err)
	}
}

func TestTheHandlerWritesMessageAndAttributesAtTheRightPriority(t *testing.T) {
	t.Parallel()
	var r records
	log := slog.New(klog.NewHandler(klog.New(&r, klog.Limit{}), "cocoon: ", slog.LevelInfo))
	log.Debug("unseen")
	log.Info("step done", "name", "mounts", "ms", 12)
	log.With("sandbox", "s1").WithGroup("net").Warn("slow", "link", "eth0")
	log.Error("two\nlines")
	want := []string{
		"<14>cocoon: step done name=mounts ms=12\n",
		"<12>cocoon: slow sandbox=s1 net.link=eth0\n",
		"<11>cocoon: \"two\\nlines\"\n",
	}
	if !slices.Equal(r.got, want) {
		t.Errorf("got\n%q, want\n%q", r.got, want)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add("hello\nworld", 6)
	f.Add("\x1b]0;title\x07", 3)
	f.Add(strings.Repeat("long", 1000), 7)
	f.Fuzz(func(t *testing.T, text string, p int) {
		var r records
		if err := klog.New(&r, klog.Limit{}).Record(klog.Priority(p&7), text); err != nil {
			t.Fatal(err)
		}
		for _, rec := range r.got {
			if strings.Count(rec, "\n") != 1 || !strings.HasSuffix(rec, "\n") || len(rec) > klog.MaxRecord+64 {
				t.Errorf("record %q is not one bounded line", rec)
			}
		}
	})
}
