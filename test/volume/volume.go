// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package volume makes the disks that tests and the demonstration attach to a
// guest: volumes with user-data and disks with a file system.
package volume

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Pod is what a pod VM is started with.
type Pod struct {
	Name string
	// Cert, Key and ClientCA are those of the forwarder, as PEM.
	Cert, Key, ClientCA []byte
	// Initdata is the owner's document, as TOML.
	Initdata string
	// Scratch asks for an image store on the disk.
	Scratch bool
}

// UserData makes the volume that a cloud provider would attach, in the shape in
// which cloud-api-adaptor fills it: dir.iso, from files that it leaves in dir.
func (p Pod) UserData(ctx context.Context, dir string) (string, error) {
	document, err := p.document()
	if err != nil {
		return "", fmt.Errorf("write user-data: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for name, content := range map[string]string{"user-data": document, "meta-data": "local-hostname: " + p.Name + "\n", "vendor-data": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	iso := dir + ".iso"
	out, err := exec.CommandContext(ctx, "genisoimage", "-quiet", "-volid", "cidata", "-joliet", "-rock", "-o", iso, dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("genisoimage: %w: %s", err, out)
	}
	return iso, nil
}

// document is the cloud-config with its two files.
func (p Pod) document() (string, error) {
	apf, err := json.Marshal(map[string]string{
		"pod-namespace": "default", "pod-name": p.Name,
		"tls-server-cert": string(p.Cert), "tls-server-key": string(p.Key), "tls-client-ca": string(p.ClientCA),
	})
	if err != nil {
		return "", err
	}
	initdata, err := Pack(p.Initdata)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("#cloud-config\n\nwrite_files:\n")
	for _, f := range [][2]string{{"apf.json", string(apf)}, {"initdata", initdata}} {
		fmt.Fprintf(&b, "  - path: /run/peerpod/%s\n    content: |\n      %s\n", f[0], f[1])
	}
	if p.Scratch {
		b.WriteString("  - path: /run/peerpod/scratch-space.marker\n    content: \"\"\n")
	}
	return b.String(), nil
}

// Pack packs an owner's document: gzip, then base64.
func Pack(document string) (string, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(document))
	if err := errors.Join(err, w.Close()); err != nil {
		return "", fmt.Errorf("pack initdata: %w", err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes()), nil
}

// Ext4 makes the file image with an ext4 file system of size bytes that holds
// the tree below content.
func Ext4(ctx context.Context, image, content string, size int64) error {
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, size); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-d", content, image).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return nil
}
