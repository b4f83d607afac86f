// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// section is a part of the report that can be run by itself.
type section struct {
	name  string
	tools []tool
	run   func(*bench, context.Context) error
}

// sections are all parts, in the order of the report.
func sections() []section {
	return []section{
		{"size", []tool{{"zstd", "zstd"}}, (*bench).measureSizes},
		{"boot", []tool{{"qemu-system-x86_64", "qemu-system-x86"}, {"genisoimage", "genisoimage"}, {busyboxFile, "busybox-static"}}, (*bench).measureBoot},
		{"container", []tool{{"runc", "runc"}, {busyboxFile, "busybox-static"}}, (*bench).measureContainers},
		{"rpc", []tool{{busyboxFile, "busybox-static"}}, (*bench).measureRPC},
		{"pull", []tool{
			{"containerd", "containerd"}, {"ctr", "containerd"}, {"skopeo", "skopeo"}, {"umoci", "umoci"}, {busyboxFile, "busybox-static"},
		}, (*bench).pullImages},
		{"policy", nil, (*bench).measurePolicy},
		{"attestation", nil, (*bench).measureAttestation},
		{"image", []tool{{"dpkg-deb", "dpkg"}}, (*bench).measureImages},
		{"measurements", []tool{{"veritysetup", "cryptsetup-bin"}}, (*bench).measureMeasurements},
	}
}

func sectionNames() []string {
	var names []string
	for _, s := range sections() {
		names = append(names, s.name)
	}
	return names
}

func checkSections(only []string) error {
	for _, name := range only {
		if !slices.Contains(sectionNames(), name) {
			return fmt.Errorf("no section %q; there are %q", name, sectionNames())
		}
	}
	return nil
}

// bench is a run of the sections.
type bench struct {
	opt    options
	dir    string // on tmpfs
	out    io.Writer
	report report

	registry  *imageRegistry // started by the first that needs it
	pullAdded []int64
}

// measureAll runs the sections in dir and reports. A section that fails is an
// error in the end, and the others are measured all the same.
func measureAll(ctx context.Context, o options, dir string) (err error) {
	b := &bench{opt: o, dir: dir, out: os.Stdout}
	var chosen []section
	b.report.Peers = map[string]string{}
	for _, s := range sections() {
		if len(o.only) > 0 && !slices.Contains(o.only, s.name) {
			continue
		}
		chosen = append(chosen, s)
		versions, err := findTools(ctx, s.tools)
		if err != nil {
			return fmt.Errorf("section %s: %w", s.name, err)
		}
		maps.Copy(b.report.Peers, versions)
	}
	if b.report.Machine, err = thisMachine(); err != nil {
		return err
	}
	if err := enterScratch(dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leaveScratch(dir)) }()
	var failed []error
	for i, s := range chosen {
		fmt.Fprintf(b.out, "[%d/%d] %s\n", i+1, len(chosen), s.name)
		start := time.Now()
		if err := s.run(b, ctx); err != nil {
			failed = append(failed, fmt.Errorf("section %s: %w", s.name, err))
			b.say("FAILED, see the end")
		}
		b.say("took %.1f s", time.Since(start).Seconds())
	}
	if b.registry != nil {
		failed = append(failed, b.registry.stop())
	}
	return errors.Join(append(failed, b.publish())...)
}

// publish prints the table and writes the file.
func (b *bench) publish() error {
	if len(b.report.Rows) == 0 {
		return errors.New("nothing was measured")
	}
	fmt.Fprintln(b.out)
	if err := b.report.writeTable(b.out); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "\n%d aims missed; %d cores, kernel %s, QEMU by %s\n", b.report.missed(),
		b.report.Machine.CPUs, b.report.Machine.Kernel, orDash(b.report.Machine.Accel))
	return b.report.writeJSON(b.opt.json)
}

func (b *bench) add(r row) { b.report.Rows = append(b.report.Rows, r) }

// say prints a line of progress.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.out, "      "+format+"\n", args...)
}

func (b *bench) guestBinary() string { return filepath.Join(b.opt.bin, "cocoon") }

// images starts the registry, or returns the one that runs.
func (b *bench) images(ctx context.Context) (*imageRegistry, error) {
	if b.registry != nil {
		return b.registry, nil
	}
	b.say("making the images and their registry")
	r, err := startRegistry(ctx, filepath.Join(b.dir, "registry"))
	if err != nil {
		return nil, err
	}
	b.registry = r
	return r, nil
}
