// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
)

// description is one of two devices, as programs of a vendor write it.
const description = `cdiVersion: "0.6.0"
kind: "example.com/gpu"
containerEdits:
  env: ["DRIVER=1"]
devices:
- name: "0"
  containerEdits:
    env: ["DEVICE=0"]
    deviceNodes: [{path: "/dev/null", hostPath: "/dev/null"}]
- name: "1"
  containerEdits:
    env: ["DEVICE=1"]
    hooks: [{hookName: createContainer, path: "/usr/bin/vendor-hook"}]
`

func describe(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vendor.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func asking(devices string) *specs.Spec {
	return &specs.Spec{
		Annotations: map[string]string{"cdi.k8s.io/vfio16": devices}, Process: &specs.Process{Env: []string{"PATH=/bin"}}, Linux: &specs.Linux{},
	}
}

func TestADescribedDeviceIsGiven(t *testing.T) {
	t.Parallel()
	s := asking("example.com/gpu=0,example.com/gpu=0")
	if err := (CDI{Dir: describe(t, description)}).inject(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if want := []string{"PATH=/bin", "DRIVER=1", "DEVICE=0"}; !slices.Equal(s.Process.Env, want) {
		t.Errorf("environment %q", s.Process.Env)
	}
	if d := s.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/null" || d[0].Major != 1 || d[0].Minor != 3 {
		t.Errorf("nodes %+v", d)
	}
}

func TestADescriptionThatComesLaterIsWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := asking("example.com/gpu=0")
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- CDI{Dir: dir}.inject(t.Context(), s) }()
		synctest.Wait()
		if err := os.WriteFile(filepath.Join(dir, "vendor.yaml"), []byte(description), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || time.Since(began) != cdiEvery {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestADeviceThatNothingDescribesIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, tc := range map[string]struct {
			dir, devices string
			want         error
			after        time.Duration
		}{
			"another kind":     {describe(t, description), "example.com/nic=0", errNoDescription, DefaultCDITimeout},
			"no directory":     {"/no/such/directory", "example.com/gpu=0", errNoDescription, DefaultCDITimeout},
			"another device":   {describe(t, description), "example.com/gpu=7", errNoDescription, 0},
			"no name":          {describe(t, description), "example.com/gpu", ErrInvalid, 0},
			"empty":            {describe(t, description), "", ErrInvalid, 0},
			"path":             {describe(t, description), "../gpu=0", ErrInvalid, 0},
			"too many":         {describe(t, description), strings.Repeat("example.com/gpu=0,", maxCDIDevices) + "example.com/gpu=1", ErrInvalid, 0},
			"bad description":  {describe(t, "kind: x"), "example.com/gpu=0", nil, 0},
			"half description": {describe(t, description[:100]), "example.com/gpu=0", nil, 0},
		} {
			s := asking(tc.devices)
			began := time.Now()
			err := CDI{Dir: tc.dir}.inject(t.Context(), s)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || time.Since(began).Round(time.Second) != tc.after {
				t.Errorf("%s: %v after %v", name, err, time.Since(began))
			}
			if !reflect.DeepEqual(s, asking(tc.devices)) {
				t.Errorf("%s: the specification has changed: %+v", name, s)
			}
		}
	})
}

func TestAContainerGetsItsDescribedDevices(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{change: func(d *Deps) { d.CDI = CDI{Dir: describe(t, description), Timeout: time.Second} }})
	r := g.container("gpu", "sh", "-c", "echo $DRIVER $DEVICE")
	r.OCI.Annotations = map[string]string{"cdi.k8s.io/vfio16": "example.com/gpu=0"}
	g.created(t, r)
	g.remove(t, "gpu")
	// A hook of a description has to be a program of the image as well.
	r = g.container("hooked", "true")
	r.OCI.Annotations = map[string]string{"cdi.k8s.io/vfio16": "example.com/gpu=1"}
	_, err := g.CreateContainer(limited(t), r)
	wantStatus(t, err, codes.InvalidArgument, "createContainer hook")
	pod := g.sandboxContainer("pod")
	pod.OCI.Annotations["cdi.k8s.io/vfio16"] = "example.com/absent=0"
	g.created(t, pod)
}
