// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"

	"cocoon/internal/initdata"
	"cocoon/internal/stage"
)

// Dir is where stock guests keep what user-data carried.
const Dir = "/run/peerpod"

// The names of the files of user-data and initdata, below Dir.
const (
	fileAA       = initdata.KeyAA
	fileCDH      = initdata.KeyCDH
	filePolicy   = initdata.KeyPolicy
	fileAPF      = "apf.json"
	fileAPFOld   = "daemon.json" // its name before 2025
	fileAuth     = "auth.json"
	fileInitdata = "initdata"
	fileDigest   = "initdata.digest"
	fileScratch  = "scratch-space.marker"
)

// ErrUnmeasured is returned when user-data carries configuration that decides
// whom the guest trusts, outside of initdata.
var ErrUnmeasured = errors.New("configuration outside of the measured initdata")

// emptyInitdata stands for an absent initdata, byte for byte as the upstream
// provisioner makes it up, so that verifiers know its digest.
const emptyInitdata = "algorithm = \"sha256\"\nversion = \"0.1.0\"\n\n[data]\n\"aa.toml\" = '''\n'''"

// Provision is what the guest was given.
type Provision struct {
	// AA, CDH and Policy are aa.toml, cdh.toml and policy.rego; nil if absent.
	AA, CDH, Policy []byte
	// Auth is auth.json, registry credentials from the host; nil if absent.
	Auth []byte
	// APF is apf.json, which holds a private key; nil if absent.
	APF []byte
	// Scratch asks for an encrypted image store on the disk.
	Scratch bool
	// Initdata is the owner's document. Without one it is the document that
	// stands for none, and HasInitdata is false.
	Initdata    *initdata.Document
	HasInitdata bool
	// Digest is the digest of Initdata. It has not been compared with the
	// hardware's yet.
	Digest []byte
	// Skipped names files that nobody may write.
	Skipped []string

	initdataText []byte
}

// Options says what a guest accepts.
type Options struct {
	// Unmeasured accepts aa.toml and cdh.toml from user-data itself, where the
	// host can change them unnoticed. For development only.
	Unmeasured bool
}

// Parse reads a user-data document and the initdata in it. What initdata says
// replaces files of the same name; it is not verified here.
func Parse(userData []byte, opt Options) (*Provision, error) {
	p := &Provision{}
	files, err := parseUserData(userData)
	if err != nil {
		return nil, stage.Wrap(stage.UserData, err)
	}
	for _, f := range files {
		p.put(f)
	}
	measured, err := p.readInitdata()
	if err != nil {
		return nil, stage.Wrap(stage.Initdata, err)
	}
	for name, to := range map[string]*[]byte{fileAA: &p.AA, fileCDH: &p.CDH, filePolicy: &p.Policy} {
		content, ok := measured[name]
		switch {
		case ok:
			*to = []byte(content)
		case *to != nil && !opt.Unmeasured:
			return nil, stage.Errorf(stage.UserData, "%s: %w", name, ErrUnmeasured)
		}
	}
	return p, nil
}

// put takes one file of user-data. Paths are compared as they are: only the
// exact ones are allowed.
func (p *Provision) put(f file) {
	content := []byte(f.content)
	dir, name := path.Split(f.path)
	if dir != Dir+"/" {
		p.Skipped = append(p.Skipped, f.path)
		return
	}
	switch name {
	case fileAA:
		p.AA = content
	case fileCDH:
		p.CDH = content
	case fileAPF, fileAPFOld:
		p.APF = content
	case fileAuth:
		p.Auth = content
	case fileInitdata:
		p.initdataText = content
	case fileScratch:
		p.Scratch = true
	default:
		p.Skipped = append(p.Skipped, f.path)
	}
}

// readInitdata parses the owner's document and returns its files by name. The
// document that stands for none has no files: its empty aa.toml only told
// stock guests to start.
func (p *Provision) readInitdata() (map[string]string, error) {
	// The peer-pod provisioner does not look at the version.
	opt := initdata.Options{AnyVersion: true}
	p.HasInitdata = p.initdataText != nil
	var err error
	if !p.HasInitdata {
		p.Initdata, err = initdata.Parse([]byte(emptyInitdata), opt)
		if err != nil {
			return nil, err
		}
		p.Digest = p.Initdata.Digest()
		return nil, nil
	}
	if p.Initdata, err = initdata.ParseBase64(p.initdataText, opt); err != nil {
		return nil, err
	}
	p.Digest = p.Initdata.Digest()
	return cleanKeys(p.Initdata.Data)
}

// cleanKeys cleans the keys of data as paths, and refuses two keys that mean
// the same file.
func cleanKeys(data map[string]string) (map[string]string, error) {
	m := make(map[string]string, len(data))
	for _, k := range slices.Sorted(maps.Keys(data)) {
		name := clean(k)
		if _, ok := m[name]; ok {
			return nil, fmt.Errorf("two keys mean the file %.60q: %w", name, initdata.ErrFormat)
		}
		m[name] = data[k]
	}
	return m, nil
}

func clean(key string) string { return path.Clean("./" + key) }

// Write puts the files where stock guests have them, for debugging tools. The
// two that hold keys or passwords are for root only. dir is made if absent.
func (p *Provision) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	defer root.Close() // nothing is written through the folder's descriptor itself
	for _, f := range []struct {
		name    string
		content []byte
		mode    os.FileMode
	}{
		{fileAPF, p.APF, 0o600},
		{fileAuth, p.Auth, 0o600},
		{fileAA, p.AA, 0o644},
		{fileCDH, p.CDH, 0o644},
		{filePolicy, p.Policy, 0o644},
		{fileInitdata, p.initdataText, 0o644},
		{fileDigest, []byte(hex.EncodeToString(p.Digest)), 0o644},
	} {
		if f.content == nil {
			continue
		}
		// A file that is there keeps its mode, so it goes first.
		if err := root.Remove(f.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("replace %q: %w", f.name, err)
		}
		if err := root.WriteFile(f.name, f.content, f.mode); err != nil {
			return fmt.Errorf("write %q: %w", f.name, err)
		}
	}
	return nil
}
