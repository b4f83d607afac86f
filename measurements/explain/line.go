// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"

	"cocoon/measurements/predict"
	"cocoon/measurements/shim"
)

// line is a command line, by whom, and in what it is no ordinary one.
type line struct {
	predict.Line
	because []string
}

// option is one of a shim's that changes the command line.
type option struct {
	name  string
	apply func(*shim.Config)
}

func options() []option {
	return []option{
		{"enable_debug of the hypervisor", func(c *shim.Config) { c.Debug = true }},
		{"debug_console_enabled of the agent", func(c *shim.Config) { c.Agent["debug_console"] = "1026" }},
		{"no launch_process_timeout", func(c *shim.Config) { delete(c.Agent, "launch_process_timeout") }},
		{"enable_iommu", func(c *shim.Config) { c.IOMMU = true }},
		{"block_device_driver virtio-scsi", func(c *shim.Config) { c.SCSI = true }},
		{"SELinux in the guest", func(c *shim.Config) { c.SELinux = true }},
		{"use_legacy_serial", func(c *shim.Config) { c.LegacySerial = true }},
		{"no guest extension image", func(c *shim.Config) { c.Extensions = nil }},
	}
}

// lines are all that a guest may have got: those of the shims as they are
// configured, with up to two options more, and each with a newline at its end.
func (in *Inputs) lines(g *predict.Guest) ([]line, error) {
	ordinary, err := in.Launch.Lines(g.Image)
	if err != nil {
		return nil, err
	}
	var all []line
	for _, l := range ordinary {
		all = append(all, line{Line: l})
	}
	if in.Launch.Cmdline == "" {
		more, err := in.optional(g)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	for _, l := range all[:len(all):len(all)] {
		l.Cmdline += "\n"
		l.because = join(l.because, []string{"a newline at the end of the command line"})
		all = append(all, l)
	}
	return all, nil
}

// optional are the lines of shims with one or two options more.
func (in *Inputs) optional(g *predict.Guest) ([]line, error) {
	var all []line
	list := options()
	for i := range list {
		for k := i; k < len(list); k++ {
			for _, name := range in.Launch.Shims {
				c, err := in.Launch.Config(g.Image)
				if err != nil {
					return nil, err
				}
				list[i].apply(&c)
				because := []string{"shim configured with " + list[i].name}
				if k != i {
					list[k].apply(&c)
					because = append(because, "shim configured with "+list[k].name)
				}
				text, err := predict.Compose(name, c)
				if errors.Is(err, shim.ErrConfig) {
					continue // an option that this shim does not have
				}
				if err != nil {
					return nil, err
				}
				all = append(all, line{predict.Line{Shim: name, Cmdline: text}, because})
			}
		}
	}
	return all, nil
}
