// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"text/template"

	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
)

// SealFile is the name of the notes for whoever makes an image for Secure
// Execution of its parts.
const SealFile = "SEAL.md"

// sealNotes are a template. Names in capitals are the reader's.
const sealNotes = `# Making the image for IBM Secure Execution

Profile {{.Profile}}, root {{.Tree}}. The parts of the image are

{{range .Outputs}}{{if part .Name}}    {{.SHA256}}  {{.File}}
{{end}}{{end}}
They are the same for everybody who builds them. The image is not: it has random keys, and is encrypted for the machines whose host key documents it is
made with. So it is made once, by whoever answers for it, on a machine with s390-tools 2.36 or later:

    mkimage seal DIR --host-key-document HKD.crt --cert SIGNING-KEY.crt --cert INTERMEDIATE-CA.crt

or, where mkimage is not,

    pvimg create --kernel vmlinuz --ramdisk initrd.img --parmfile cmdline --output cocoon-se.img \
      --host-key-document HKD.crt --cert SIGNING-KEY.crt --cert INTERMEDIATE-CA.crt

and then, with the file that came out,

    mkimage seal DIR --image cocoon-se.img

Both leave cocoon-se.img, which a kata shim takes as its kernel, and hdr.bin, its header. Give hdr.bin to your verifier: it is what tells this image from
others. Its tag is the reference value, see

    measurements se DIR
`

// seal writes the notes of an image for Secure Execution, and nothing for others.
func seal(m *manifest.Manifest) ([]byte, error) {
	if m.Layout != string(profile.SecureExecution) {
		return nil, nil
	}
	part := func(name string) bool { return name == "kernel" || name == "initrd" || name == "cmdline" }
	t, err := template.New("").Funcs(template.FuncMap{"part": part}).Parse(sealNotes)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, m)
	return out.Bytes(), err
}
