// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"cocoon/agent/policy"
	"cocoon/test/volume"
)

// writeVolume makes the user-data volume of a pod VM: certificates for both
// ends, the registry's authority, and a policy that allows all.
func writeVolume(ctx context.Context, dir string, id identity, reg *imageRegistry) (string, error) {
	ca, err := os.ReadFile(reg.ca())
	if err != nil {
		return "", err
	}
	pod := volume.Pod{Name: guestName, Cert: id.cert, Key: id.key, ClientCA: id.cert, Initdata: initdata(string(ca))}
	return pod.UserData(ctx, filepath.Join(dir, "user-data"))
}

// initdata is the owner's document.
func initdata(registryCA string) string {
	return fmt.Sprintf(`algorithm = "sha256"
version = "0.1.0"

[data]
"cdh.toml" = '''
[kbc]
name = "offline_fs_kbc"
[image]
extra_root_certificates = ["""
%s"""]
'''
"policy.rego" = '''
%s'''
`, registryCA, policy.AllowAll())
}
