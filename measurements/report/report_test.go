// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"cocoon/measurements/predict"
	"cocoon/mkimage/manifest"
)

// launch is a result with values of TDX.
func launch(mrtd, rtmr2 string) predict.Result {
	return predict.Result{Values: []predict.Pair{{Name: "mr_td", Value: mrtd}, {Name: "rtmr_2", Value: rtmr2}}}
}

func TestValuesOfTwoLaunchesDoNotMixInRego(t *testing.T) {
	t.Parallel()
	r := Report{Results: []predict.Result{launch("aa", "bb"), launch("cc", "dd"), launch("aa", "bb")}}
	l, err := r.launches()
	if err != nil || len(l.sets["tdx"]) != 2 {
		t.Fatalf("%v, %v", l, err)
	}
	if set := l.sets["tdx"][1]; len(set) != 2 || set["mr_td"] != "cc" || set["rtmr_2"] != "dd" {
		t.Errorf("second launch is %v", set)
	}
}

func TestWhatAFormatCannotSayIsRefused(t *testing.T) {
	t.Parallel()
	_, err := (&Report{Results: []predict.Result{{Values: []predict.Pair{{Name: "cca_x", Value: "00"}}}}}).launches()
	if !errors.Is(err, predict.ErrOptions) || !strings.Contains(err.Error(), "cca_x") {
		t.Errorf("claim that nobody has: %v", err)
	}
	if _, err := measured("snp_host_data", []string{strings.Repeat("00", 32), strings.Repeat("01", 32)}); !errors.Is(err, predict.ErrOptions) {
		t.Errorf("two values of one register: %v", err)
	}
	if _, err := measured("snp_launch_measurement", []string{"xyz"}); err == nil {
		t.Error("no hexadecimal is taken")
	}
	part := Report{Results: []predict.Result{launch("aa", "bb")}}
	for name, write := range Formats() {
		whole := slices.Contains([]string{"statement", "corim", "rego", HTML}, name)
		if err := write(&bytes.Buffer{}, &part); whole != errors.Is(err, predict.ErrOptions) || !whole && err != nil {
			t.Errorf("%s of a part: %v", name, err)
		}
	}
}

func TestNoTextOfAnImageBecomesARule(t *testing.T) {
	t.Parallel()
	const evil = "x\ncocoon_image if true\n"
	var b bytes.Buffer
	if err := writeRego(&b, &Report{Image: &manifest.Manifest{Profile: evil, Tree: evil}, Results: []predict.Result{launch("aa", "bb")}}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "\ncocoon_image if true") || !strings.Contains(b.String(), `x\ncocoon_image`) {
		t.Errorf("policy:\n%s", b.String())
	}
}

func TestATableShowsStepsIfThereAreAny(t *testing.T) {
	t.Parallel()
	r := launch("aa", "bb")
	r.Line = predict.Line{Shim: "go", Cmdline: "one two"}
	var plain, explained bytes.Buffer
	err := writeTable(&plain, &Report{Results: []predict.Result{r}})
	r.Steps = []predict.Step{{Of: "rtmr_2", What: "initrd", Digest: "ee"}}
	err = errors.Join(err, writeTable(&explained, &Report{Results: []predict.Result{r}}))
	if err != nil || plain.String() != "go  mr_td   aa\ngo  rtmr_2  bb\n" || explained.String() != plain.String()+"\ngo: one two\n  rtmr_2  ee  initrd\n" {
		t.Errorf("%v:\n%s\n%s", err, plain.String(), explained.String())
	}
}

func TestNoTextOfAnImageBecomesMarkup(t *testing.T) {
	t.Parallel()
	const evil = `"><script>alert(1)</script>`
	r := launch("aa", "bb")
	r.Line = predict.Line{Shim: evil, Cmdline: evil}
	r.Steps = []predict.Step{{Of: evil, Input: evil, What: evil, Digest: evil}}
	m := &manifest.Manifest{Profile: evil, Tree: evil, Release: evil, TEEs: []string{evil}, Outputs: []manifest.File{{Name: evil, File: evil, SHA256: evil}}}
	var b bytes.Buffer
	if err := writeHTML(&b, &Report{Image: m, Results: []predict.Result{r}}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "<script") || strings.Count(b.String(), "alert(1)") < 8 {
		t.Errorf("page:\n%s", b.String())
	}
}
