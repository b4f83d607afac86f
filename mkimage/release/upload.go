// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"strings"
	"text/template"

	"cocoon/mkimage/manifest"
)

// UploadFile is the name of the notes for whoever brings a disk to a cloud.
const UploadFile = "UPLOAD.md"

// diskPrefix is what the names of outputs with a disk begin with.
const diskPrefix = "disk-"

// notes are templates by the form of the disk. Names in capitals are the
// reader's.
const notes = `# Bringing this image to a cloud

Profile {{.Man.Profile}}, root {{.Man.Tree}}. The program that firmware starts is {{.Program.File}}, sha256 {{.Program.SHA256}}; it is on every disk below, so that
` + "`measurements vtpm`" + ` gives one set of values for all clouds. It is not signed: Secure Boot has to be off. The machine needs a TPM (a vTPM), UEFI and at least
{{.Man.MemoryMiB}} MiB of memory. Name the values to your broker before you start a pod.
{{range .Disks}}{{if eq .Name "disk-vhd"}}
## Azure: {{.File}}

A fixed VHD whose disk has {{megabytes .Size}} MiB, without the footer. It has to become a page blob, and an image of generation 2.

    az storage blob upload --type page --account-name ACCOUNT --container-name CONTAINER --name {{.File}} --file {{.File}}
    az sig image-definition create --resource-group GROUP --gallery-name GALLERY --gallery-image-definition cocoon --publisher P --offer O --sku S \
      --os-type Linux --os-state Specialized --hyper-v-generation V2 --features SecurityType=ConfidentialVmSupported
    az sig image-version create --resource-group GROUP --gallery-name GALLERY --gallery-image-definition cocoon --gallery-image-version 1.0.0 \
      --os-vhd-uri BLOB_URL --os-vhd-storage-account ACCOUNT
{{else if eq .Name "disk-gcp"}}
## Google Cloud: {{.File}}

An archive with one file disk.raw, of whole GiB.

    gcloud storage cp {{.File}} gs://BUCKET/
    gcloud compute images create cocoon --source-uri gs://BUCKET/{{.File}} --guest-os-features=UEFI_COMPATIBLE,GVNIC,VIRTIO_SCSI_MULTIQUEUE,SEV_SNP_CAPABLE,TDX_CAPABLE
{{else if eq .Name "disk-raw"}}
## AWS: {{.File}}

The disk as it is.

    aws s3 cp {{.File}} s3://BUCKET/
    aws ec2 import-snapshot --disk-container "Format=RAW,UserBucket={S3Bucket=BUCKET,S3Key={{.File}}}"
    aws ec2 register-image --name cocoon --architecture x86_64 --virtualization-type hvm --boot-mode uefi --tpm-support v2.0 --ena-support \
      --root-device-name /dev/xvda --block-device-mappings "DeviceName=/dev/xvda,Ebs={SnapshotId=SNAPSHOT}"
{{else if eq .Name "disk-qcow2"}}
## libvirt and QEMU: {{.File}}

The machine is q35 with OVMF, and a TPM by swtpm.

    virsh vol-create-as POOL cocoon.qcow2 {{.Size}} --format qcow2
    virsh vol-upload --pool POOL cocoon.qcow2 {{.File}}
{{end}}{{end}}`

// upload writes the notes of an image that boots itself, and nothing for others.
func upload(m *manifest.Manifest) ([]byte, error) {
	data := struct {
		Man     *manifest.Manifest
		Program manifest.File
		Disks   []manifest.File
	}{Man: m}
	for _, o := range m.Outputs {
		if strings.HasPrefix(o.Name, diskPrefix) {
			data.Disks = append(data.Disks, o)
		}
	}
	if len(data.Disks) == 0 {
		return nil, nil
	}
	var err error
	if data.Program, err = m.Output("uki"); err != nil {
		return nil, err
	}
	t, err := template.New("").Funcs(template.FuncMap{"megabytes": func(size int64) int64 { return size >> 20 }}).Parse(notes)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, data)
	return out.Bytes(), err
}
