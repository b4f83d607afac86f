// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// profilePath holds the name of the image's profile. It is part of the
// measured image. rootfs/recipe, which writes it, is not linked here.
const profilePath = "/etc/cocoon/profile"

// profile is what an image was built for. Everything that makes a guest less
// strict stands here and nowhere else, so that it is measured.
type profile struct {
	name string
	// podVM takes configuration from user-data and serves TCP 15150.
	podVM bool
	// initdataDisk takes initdata from a disk, by which a shim hands it over.
	initdataDisk bool
	// tee overrides the detection of the platform; empty detects.
	tee string
	// needsTEE refuses to start where detection finds none.
	needsTEE bool
	// unmeasured accepts aa.toml and cdh.toml that no initdata digest covers.
	unmeasured bool
	// cmdline trusts the kernel command line, because it is measured.
	cmdline bool
	// console offers a shell to the host, past the policy.
	console bool
	// environment lets variables override settings.
	environment bool
}

// hostProfile is the profile of a guest role on a development machine, where
// there is no image.
const hostProfile = "host"

func profiles() []profile {
	return []profile{
		{name: "dev", podVM: true, tee: "sample", unmeasured: true, cmdline: true, console: true},
		{name: "dev-kata", initdataDisk: true, tee: "sample", unmeasured: true, cmdline: true},
		{name: "kata", initdataDisk: true, needsTEE: true, cmdline: true},
		{name: "podvm", podVM: true, needsTEE: true, cmdline: true},
		{name: hostProfile, unmeasured: true, environment: true},
	}
}

var errUnknownProfile = errors.New("unknown profile")

var errFlags = errors.New("flags are for a development machine, not for an image")

// accepts returns errFlags unless the role may be started with these flags: in
// an image they would change what was measured.
func (p profile) accepts(o options) error {
	if p.name != hostProfile && o.any() {
		return errFlags
	}
	return nil
}

// readProfile finds out which profile's image this is. Without the file it is
// no image.
func readProfile(path string) (profile, error) {
	name := hostProfile
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		name = strings.TrimSpace(string(b))
	case !errors.Is(err, fs.ErrNotExist):
		return profile{}, fmt.Errorf("read the image's profile: %w", err)
	}
	for _, p := range profiles() {
		if p.name == name {
			return p, nil
		}
	}
	return profile{}, fmt.Errorf("%w %.40q", errUnknownProfile, name)
}
