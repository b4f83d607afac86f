// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cocoon/agent/policy"
)

// writeVolume makes the user-data volume of a pod VM: certificates for both
// ends, the registry's authority, and a policy that allows all.
func writeVolume(ctx context.Context, dir string, id identity, reg *imageRegistry) (string, error) {
	ca, err := os.ReadFile(reg.ca())
	if err != nil {
		return "", err
	}
	apf, err := json.Marshal(map[string]string{
		"pod-namespace": "default", "pod-name": "bench",
		"tls-server-cert": string(id.cert), "tls-server-key": string(id.key), "tls-client-ca": string(id.cert),
	})
	if err != nil {
		return "", err
	}
	initdata, err := packInitdata(string(ca))
	if err != nil {
		return "", err
	}
	src, iso := filepath.Join(dir, "user-data"), filepath.Join(dir, "user-data.iso")
	if err := os.MkdirAll(src, 0o700); err != nil {
		return "", err
	}
	for name, content := range map[string]string{
		"user-data": cloudConfig(string(apf), initdata), "meta-data": "local-hostname: " + guestName + "\n", "vendor-data": "",
	} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	return iso, run(ctx, "genisoimage", "-quiet", "-volid", "cidata", "-joliet", "-rock", "-o", iso, src)
}

// cloudConfig is the document with the two files, each of one line.
func cloudConfig(apf, initdata string) string {
	var b strings.Builder
	b.WriteString("#cloud-config\nwrite_files:\n")
	for _, f := range []struct{ name, content string }{{"apf.json", apf}, {"initdata", initdata}} {
		fmt.Fprintf(&b, "  - path: /run/peerpod/%s\n    content: |\n      %s\n", f.name, f.content)
	}
	return b.String()
}

// packInitdata is the owner's document: gzip, then base64.
func packInitdata(registryCA string) (string, error) {
	doc := fmt.Sprintf(`algorithm = "sha256"
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
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(doc))
	if err := errors.Join(err, w.Close()); err != nil {
		return "", fmt.Errorf("pack the initdata: %w", err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes()), nil
}
