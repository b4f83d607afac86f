// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"cocoon/agent/storage"
)

// CDI says where devices are described in the words of the Container Device
// Interface. The descriptions are made in the guest, by what knows its devices;
// the host has no way to put one there.
type CDI struct {
	// Dir holds the descriptions; "" means DefaultCDIDir.
	Dir string
	// Timeout bounds the wait for a description; 0 means DefaultCDITimeout.
	Timeout time.Duration
}

// Where and how long shims expect an agent to look for descriptions.
const (
	DefaultCDIDir     = "/var/run/cdi"
	DefaultCDITimeout = 100 * time.Second
)

const (
	// cdiEvery is how often a description that is on its way is looked for.
	cdiEvery = time.Second
	// maxCDIDevices bounds the devices of one container.
	maxCDIDevices = 256
)

// errNoDescription is returned for a device that nothing describes in time.
var errNoDescription = errors.New("no description of the device")

// cdiDevices returns the devices that annotations ask for, "vendor/class=name".
// A sandbox container carries those of its pod and gets none.
func cdiDevices(annotations map[string]string) ([]string, error) {
	if annotations["io.katacontainers.pkg.oci.container_type"] == "pod_sandbox" || storage.IsSandbox(annotations) {
		return nil, nil
	}
	_, devices, err := cdi.ParseAnnotations(annotations)
	if err != nil {
		return nil, fmt.Errorf("devices by CDI: %w: %w", ErrInvalid, err)
	}
	if len(devices) > maxCDIDevices {
		return nil, fmt.Errorf("%d devices by CDI: %w", len(devices), ErrInvalid)
	}
	slices.Sort(devices)
	return slices.Compact(devices), nil
}

// inject gives a container the devices that its annotations ask for: nodes,
// mounts, variables and hooks, as their descriptions say. It waits for a
// description, but not for a device that is missing from one that is there.
func (c CDI) inject(ctx context.Context, spec *specs.Spec) error {
	devices, err := cdiDevices(spec.Annotations)
	if err != nil || len(devices) == 0 {
		return err
	}
	if c.Dir == "" {
		c.Dir = DefaultCDIDir
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultCDITimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, errNoDescription)
	defer cancel()
	tick := time.NewTicker(cdiEvery)
	defer tick.Stop()
	for {
		missing, err := c.tryInject(spec, devices)
		if err == nil {
			return nil
		}
		if len(missing) == 0 {
			return fmt.Errorf("devices by CDI: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("devices by CDI: %q in %q: %w", missing, c.Dir, context.Cause(ctx))
		}
	}
}

// tryInject returns the devices that have no description yet, if that is why
// it fails. It changes nothing then.
func (c CDI) tryInject(spec *specs.Spec, devices []string) (missing []string, err error) {
	cache, err := cdi.NewCache(cdi.WithSpecDirs(c.Dir), cdi.WithAutoRefresh(false))
	if err != nil {
		return nil, err
	}
	for file, errs := range cache.GetErrors() {
		if len(errs) > 0 {
			return nil, fmt.Errorf("description %q: %w", file, errors.Join(errs...))
		}
	}
	missing, err = cache.InjectDevices(spec, devices...)
	for _, m := range missing {
		kind, _, _ := strings.Cut(m, "=")
		known := slices.ContainsFunc(cache.ListDevices(), func(d string) bool { return strings.HasPrefix(d, kind+"=") })
		if known {
			return nil, fmt.Errorf("its kind is described, the device %q is not: %w", m, errNoDescription)
		}
	}
	return missing, err
}
