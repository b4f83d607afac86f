// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"cocoon/measurements/predict"
	"cocoon/measurements/snp"
	"cocoon/mkimage/image"
	"cocoon/mkimage/manifest"
)

// referenceFile is the name of the file of reference values beside an image. It
// is what trustee reference set takes.
const referenceFile = "reference-values.json"

// currentQEMU does not change the kernel that it loads. What an older one makes
// of it depends on the guest's memory: measurements tdx has options for that.
const currentQEMU = 1100

// loaders are the first releases of edk2 of each way to measure a kernel that
// QEMU loads.
func loaders() []int { return []int{202402, 202411, 202508} }

// references are the values of an image under all of its TEEs, and with the
// firmware that was named. It returns nothing for an image that no TEE measures.
func references(dir, firmware string, m *manifest.Manifest) (map[string][]string, error) {
	var all []predict.Result
	for _, tee := range m.TEEs {
		g, err := predict.Open(dir, tee)
		if err != nil {
			return nil, err
		}
		if firmware != "" {
			if err := g.LoadFirmware(firmware); err != nil {
				return nil, err
			}
		}
		results, err := predicted(g, tee)
		if err != nil {
			return nil, fmt.Errorf("reference values for %q: %w", tee, err)
		}
		all = append(all, results...)
	}
	return predict.References(all), nil
}

func predicted(g *predict.Guest, tee string) ([]predict.Result, error) {
	switch tee {
	case "vtpm":
		return g.VTPM(predict.VTPM{Verifiers: predict.DefaultVerifiers()})
	case "se":
		results, err := g.SE()
		if errors.Is(err, image.ErrUnsealed) {
			return nil, nil // its header is not there yet
		}
		return results, err
	case "tdx":
		var all []predict.Result
		for _, edk2 := range loaders() {
			results, err := g.TDX(predict.TDX{Launch: predict.DefaultLaunch(), EDK2: edk2, QEMU: currentQEMU})
			if err != nil {
				return nil, err
			}
			all = append(all, results...)
		}
		return all, nil
	case "snp":
		if g.Firmware == nil {
			progress("reference values: none for snp, which measures the firmware with the rest: name it with --firmware, or see measurements snp")
			return nil, nil
		}
		signature, err := snp.SignatureOf(predict.DefaultModel)
		if err != nil {
			return nil, err
		}
		return g.SNP(predict.SNP{Launch: predict.DefaultLaunch(), VCPUs: predict.DefaultVCPUs, Signature: signature, Features: []uint64{1}, VMM: snp.QEMU})
	}
	return nil, errors.New("nothing is known of this TEE")
}

// checkFirmware refuses a firmware that would count for nothing, before anything
// is built.
func (f *buildFlags) checkFirmware() error {
	if f.firmware == "" {
		return nil
	}
	if !slices.ContainsFunc(f.in.Profile.TEEs, func(tee string) bool { return tee == "snp" || tee == "tdx" }) {
		return fmt.Errorf("%w: --firmware is for images that snp or tdx measures, not for profile %q", image.ErrInput, f.in.Profile.Name)
	}
	if _, err := os.Stat(f.firmware); err != nil {
		return fmt.Errorf("%w: firmware: %w", image.ErrInput, err)
	}
	return nil
}

// writeReferences lays the values beside the image that was built. An image whose
// values cannot be told is none: its manifest is removed.
func writeReferences(dir, firmware string, m *manifest.Manifest) error {
	file := filepath.Join(dir, referenceFile)
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the reference values of an older image: %w", err)
	}
	values, err := references(dir, firmware, m)
	if err != nil {
		return errors.Join(err, os.Remove(filepath.Join(dir, manifest.Name)))
	}
	if len(values) == 0 {
		return nil
	}
	text, err := json.MarshalIndent(values, "", "  ")
	if err != nil {
		return err
	}
	// The mode is the same under any umask.
	return errors.Join(os.WriteFile(file, append(text, '\n'), 0o644), os.Chmod(file, 0o644))
}
