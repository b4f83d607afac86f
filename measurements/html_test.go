// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// pageOf writes the page of a command into a file.
func pageOf(t *testing.T, args []string) (file, text string) {
	t.Helper()
	text, err := run(t, append(slices.Clone(args), "--format", "html")...)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, text
}

// browser starts one without a window and without a network.
func browser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium-headless-shell")
	if err != nil {
		t.Skip("no chromium-headless-shell to open the page in")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	// A sandbox of its own needs privileges that root in a container may lack; the
	// page is ours.
	ctx, stop := chromedp.NewExecAllocator(ctx, chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox,
		chromedp.WindowSize(1200, 900), chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND"))
	t.Cleanup(stop)
	ctx, end := chromedp.NewContext(ctx)
	t.Cleanup(end)
	return ctx
}

func thePageGoesFromARegisterToTheFile(t *testing.T, commands map[string][]string) {
	file, _ := pageOf(t, commands["tdx"])
	ctx := browser(t)
	const launch, initrd = "#launch-2", "#launch-2 a[href='#file-initrd']"
	must := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatal(err)
		}
	}
	click := func(selector string) { t.Helper(); must(chromedp.Click(chromedp.CSS(selector))) }
	must(chromedp.Navigate("file://" + file))
	folded := !is[bool](ctx, t, `document.querySelector("`+launch+`").open`)
	click(launch + ` > summary`)
	unfolded := is[bool](ctx, t, `document.querySelector("`+launch+`").open`)
	click(launch + ` a[href="#launch-2-cmdline"]`)
	inner := is[bool](ctx, t, `document.querySelector("#launch-2-cmdline").matches(":target")`)
	click(launch + `-cmdline > summary`)
	line := is[string](ctx, t, `document.querySelector("`+launch+`-cmdline pre").innerText`)
	label := is[string](ctx, t, `document.querySelector("`+initrd+`").innerText`)
	click(initrd)
	target := is[string](ctx, t, `document.querySelector("tr:target td:nth-child(2)").innerText`)
	shot, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		t.Fatal(err)
	}
	if !folded || !unfolded || !inner {
		t.Errorf("folded at first %t, unfolded by a click %t, the link to the command line leads there %t", folded, unfolded, inner)
	}
	if label != "initrd.img" || target != "initrd.img" || !strings.Contains(line, "console=") {
		t.Errorf("link %q leads to %q, command line %q", label, target, line)
	}
	keep(t, shot)
}

// is evaluates an expression in the page.
func is[T any](ctx context.Context, t *testing.T, expression string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// keep checks that a screenshot shows something, and leaves it in the folder that
// COCOON_SCREENSHOTS names, if it does.
func keep(t *testing.T, shot []byte) {
	t.Helper()
	picture, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	colors := map[uint32]bool{}
	for x := range picture.Bounds().Dx() {
		r, _, _, _ := picture.At(x, 80).RGBA()
		colors[r] = true
	}
	for y := range picture.Bounds().Dy() {
		r, _, _, _ := picture.At(picture.Bounds().Dx()/4, y).RGBA()
		colors[r] = true
	}
	if len(colors) < 3 || picture.Bounds().Dy() < 600 {
		t.Errorf("screenshot of %v with %d shades shows nothing", picture.Bounds(), len(colors))
	}
	if dir := os.Getenv("COCOON_SCREENSHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, "report.png"), shot, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func thePageNeedsNothingBesideIt(t *testing.T, commands map[string][]string) {
	for name, args := range commands {
		_, text := pageOf(t, args)
		for _, banned := range []string{"<script", "http:", "https:", "src=", "@import", "url("} {
			if strings.Contains(text, banned) {
				t.Errorf("%s: the page has %q in it", name, banned)
			}
		}
		if !strings.Contains(text, `content="default-src 'none'; style-src 'unsafe-inline'"`) {
			t.Errorf("%s: the page may load something", name)
		}
		for value, list := range listed(t, args...) {
			for _, one := range append(list, value) {
				if !strings.Contains(text, one) {
					t.Errorf("%s: the page lacks %s of %s", name, one, value)
				}
			}
		}
	}
}

func TestNoNameInAManifestBecomesMarkup(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "snp")
	const evil = `<script>alert(1)</script>`
	_, text := pageOf(t, []string{"snp", dir, "--firmware", firmware, "--vcpus", "1", "--cmdline", evil})
	if strings.Contains(text, "<script") || !strings.Contains(text, "&lt;script&gt;") {
		t.Error("a command line is markup")
	}
}
