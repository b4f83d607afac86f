// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package initdata_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"cocoon/internal/bounded"
	"cocoon/internal/initdata"
	"cocoon/internal/sharedtest"
)

const document = `version = "0.1.0"
algorithm = "sha256"

[data]
"aa.toml" = '''
[token_configs.kbs]
url = "https://kbs.example.com:8080"
'''
"policy.rego" = """package agent_policy
default CreateContainerRequest := [1][0] == 1
"""
"other" = "kept"
`

// dummy is the document that the peer-pod provisioner makes up when the host
// sent none; its digest is public and part of verifiers' reference values.
const (
	dummy       = "algorithm = \"sha256\"\nversion = \"0.1.0\"\n\n[data]\n\"aa.toml\" = '''\n'''"
	dummyDigest = "adb48cc14fea9403d3d51f3b5f5068fd4d80445a14e94f1b3d5dbabaad66478d"
)

func pack(t testing.TB, raw string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func device(gz []byte, size uint64) []byte {
	b := binary.LittleEndian.AppendUint64([]byte("initdata"), size)
	b = append(b, gz...)
	return append(b, make([]byte, 512-len(b)%512)...)
}

func TestEveryFormGivesTheSameDocumentAndDigest(t *testing.T) {
	t.Parallel()
	gz := pack(t, document)
	text := base64.StdEncoding.EncodeToString(gz)
	wrapped := text[:40] + "\n" + text[40:] + "\r\n"
	for name, parse := range map[string]func() (*initdata.Document, error){
		"raw":    func() (*initdata.Document, error) { return initdata.Parse([]byte(document), initdata.Options{}) },
		"gzip":   func() (*initdata.Document, error) { return initdata.ParseGzip(gz, initdata.Options{}) },
		"base64": func() (*initdata.Document, error) { return initdata.ParseBase64([]byte(text), initdata.Options{}) },
		"wrapped base64": func() (*initdata.Document, error) {
			return initdata.ParseBase64([]byte(wrapped), initdata.Options{})
		},
		"device": func() (*initdata.Document, error) {
			return initdata.ReadDevice(bytes.NewReader(device(gz, uint64(len(gz)))), initdata.Options{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := parse()
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{
				"aa.toml":     "[token_configs.kbs]\nurl = \"https://kbs.example.com:8080\"\n",
				"policy.rego": "package agent_policy\ndefault CreateContainerRequest := [1][0] == 1\n",
				"other":       "kept",
			}
			if !maps.Equal(d.Data, want) || string(d.Raw) != document || d.Algorithm != "sha256" {
				t.Fatalf("got %+v", d)
			}
		})
	}
}

func TestTheDigestCoversTheBytesAsWritten(t *testing.T) {
	t.Parallel()
	d, err := initdata.Parse([]byte(dummy), initdata.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(d.Digest()); got != dummyDigest {
		t.Fatalf("digest %s, want %s", got, dummyDigest)
	}
	for algorithm, size := range map[string]int{"sha256": 32, "sha384": 48, "sha512": 64} {
		d, err := initdata.Parse([]byte(strings.Replace(document, "sha256", algorithm, 1)), initdata.Options{})
		if err != nil || len(d.Digest()) != size {
			t.Fatalf("%s: digest of %d bytes, error %v", algorithm, len(d.Digest()), err)
		}
	}
}

func TestTheRecordedUserDataCarriesInitdata(t *testing.T) {
	t.Parallel()
	var doc struct {
		Files []struct{ Path, Content string } `yaml:"write_files"`
	}
	if err := yaml.Unmarshal(sharedtest.Read(t, "recordings/user-data.yaml"), &doc); err != nil {
		t.Fatal(err)
	}
	for _, f := range doc.Files {
		if f.Path != "/run/peerpod/initdata" {
			continue
		}
		d, err := initdata.ParseBase64([]byte(f.Content), initdata.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Data) == 0 || len(d.Digest()) == 0 {
			t.Fatalf("got %+v", d)
		}
		return
	}
	t.Fatal("the recording holds no initdata file")
}

func TestBadInitdataIsRefused(t *testing.T) {
	t.Parallel()
	b64 := func(gz []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(gz)) }
	gz := pack(t, document)
	corrupt := bytes.Clone(gz)
	corrupt[len(corrupt)-5] ^= 1
	for name, tc := range map[string]struct {
		in   []byte
		want error
	}{
		"empty":               {nil, initdata.ErrFormat},
		"not base64":          {[]byte("$$$"), initdata.ErrFormat},
		"url-safe base64":     {[]byte("-_-_"), initdata.ErrFormat},
		"not gzip":            {b64([]byte("plain text")), initdata.ErrFormat},
		"cut gzip":            {b64(gz[:len(gz)-9]), initdata.ErrFormat},
		"wrong checksum":      {b64(corrupt), initdata.ErrFormat},
		"bomb":                {b64(pack(t, strings.Repeat("#", initdata.MaxDocument+1))), bounded.ErrTooLarge},
		"long base64":         {bytes.Repeat([]byte("A"), 2*initdata.MaxCompressed+1), bounded.ErrTooLarge},
		"not TOML":            {b64(pack(t, "{}")), initdata.ErrFormat},
		"empty document":      {b64(pack(t, "")), initdata.ErrVersion},
		"no version":          {b64(pack(t, strings.Replace(document, `version = "0.1.0"`, "", 1))), initdata.ErrVersion},
		"other version":       {b64(pack(t, strings.Replace(document, "0.1.0", "0.2.0", 1))), initdata.ErrVersion},
		"no algorithm":        {b64(pack(t, strings.Replace(document, `algorithm = "sha256"`, "", 1))), initdata.ErrAlgorithm},
		"upper case":          {b64(pack(t, strings.Replace(document, "sha256", "SHA256", 1))), initdata.ErrAlgorithm},
		"sha1":                {b64(pack(t, strings.Replace(document, "sha256", "sha1", 1))), initdata.ErrAlgorithm},
		"number as file":      {b64(pack(t, document+"n = 1\n")), initdata.ErrFormat},
		"table as file":       {b64(pack(t, document+"[data.x]\ny = 'z'\n")), initdata.ErrFormat},
		"version is a number": {b64(pack(t, strings.Replace(document, `"0.1.0"`, "1", 1))), initdata.ErrFormat},
		"same file twice":     {b64(pack(t, document+"other = ''\n")), initdata.ErrFormat},
		"deep nesting":        {b64(pack(t, "x = "+strings.Repeat("[", 100000)+"\n")), initdata.ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := initdata.ParseBase64(tc.in, initdata.Options{}); !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestThePeerPodFormTakesAnyVersion(t *testing.T) {
	t.Parallel()
	raw := []byte(strings.Replace(document, "0.1.0", "0.9.0", 1))
	if _, err := initdata.Parse(raw, initdata.Options{AnyVersion: true}); err != nil {
		t.Fatal(err)
	}
}

func TestABadDeviceIsRefused(t *testing.T) {
	t.Parallel()
	gz := pack(t, document)
	for name, tc := range map[string]struct {
		in   []byte
		want error
	}{
		"empty":          {nil, initdata.ErrNoMagic},
		"short":          {[]byte("initd"), initdata.ErrNoMagic},
		"other disk":     {make([]byte, 4096), initdata.ErrNoMagic},
		"no length":      {[]byte("initdata\x01"), initdata.ErrFormat},
		"length beyond":  {device(gz, uint64(len(gz))+4096), initdata.ErrFormat},
		"length cut":     {device(gz, uint64(len(gz))-9), initdata.ErrFormat},
		"length zero":    {device(gz, 0), initdata.ErrFormat},
		"huge length":    {device(gz, 1<<63), bounded.ErrTooLarge},
		"above the most": {device(gz, initdata.MaxCompressed+1), bounded.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := initdata.ReadDevice(bytes.NewReader(tc.in), initdata.Options{})
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestAReadErrorOfTheDeviceIsNotMistakenForAnotherDisk(t *testing.T) {
	t.Parallel()
	_, err := initdata.ReadDevice(iotest{}, initdata.Options{})
	if !errors.Is(err, errRead) {
		t.Fatalf("got %v, want %v", err, errRead)
	}
}

var errRead = errors.New("read error")

type iotest struct{}

func (iotest) Read([]byte) (int, error) { return 0, errRead }

func TestTheDigestIsFittedToTheRegister(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"sha256", "sha384", "sha512"} {
		d, err := initdata.Parse([]byte(strings.Replace(document, "sha256", algorithm, 1)), initdata.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{32, 48, 64, 256} {
			register := make([]byte, n)
			copy(register, d.Digest())
			if err := d.Matches(register); err != nil {
				t.Errorf("%s in %d bytes: %v", algorithm, n, err)
			}
			register[n-1] ^= 1
			if err := d.Matches(register); !errors.Is(err, initdata.ErrMismatch) {
				t.Errorf("%s in %d bytes, last byte changed: got %v", algorithm, n, err)
			}
		}
		for _, register := range [][]byte{nil, {}, make([]byte, 32)} {
			if err := d.Matches(register); !errors.Is(err, initdata.ErrMismatch) {
				t.Errorf("%s against %x: got %v", algorithm, register, err)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(document))
	f.Add([]byte(dummy))
	f.Add([]byte("version=1"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := initdata.Parse(raw, initdata.Options{})
		if err == nil && (!bytes.Equal(d.Raw, raw) || d.Digest() == nil || d.Data == nil) {
			t.Fatalf("accepted an incomplete document: %+v", d)
		}
	})
}

func FuzzReadDevice(f *testing.F) {
	gz := pack(f, document)
	f.Add(device(gz, uint64(len(gz))))
	f.Add(device(gz, 5))
	f.Add([]byte("initdata"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := initdata.ReadDevice(bytes.NewReader(b), initdata.Options{AnyVersion: true})
		if err == nil && d.Digest() == nil {
			t.Fatalf("accepted a document without digest: %+v", d)
		}
	})
}

func FuzzParseBase64(f *testing.F) {
	f.Add([]byte(base64.StdEncoding.EncodeToString(pack(f, document))))
	f.Add([]byte("H4sI"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := initdata.ParseBase64(b, initdata.Options{})
		if err == nil && d.Digest() == nil {
			t.Fatalf("accepted a document without digest: %+v", d)
		}
	})
}
