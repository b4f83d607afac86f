// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

var (
	byItem = []string{"item"}

	// families are all metrics that one file of procfs tells, in the order of
	// the text. It is never changed.
	families = []family{
		{name: "kata_agent_threads", help: "Threads of the agent.", file: "self/stat", parse: fromStat(threads)},
		{name: "kata_agent_total_time", help: "CPU time the agent has used, in seconds.", file: "self/stat", parse: fromStat(totalTime)},
		{name: "kata_agent_total_vm", help: "Address space of the agent, in bytes.", file: "self/stat", parse: fromStat(totalVM)},
		{name: "kata_agent_total_rss", help: "Resident memory of the agent, in bytes.", file: "self/stat", parse: fromStat(totalRSS)},
		{name: "kata_agent_proc_status", help: "Status of the agent's process; memory in kibibytes.", labels: byItem, file: "self/status", parse: parseStatus},
		{name: "kata_agent_io_stat", help: "Input and output of the agent.", labels: byItem, file: "self/io", parse: parseIO},
		{name: "kata_agent_proc_stat", help: "CPU time of the agent and its children, in clock ticks.", labels: byItem, file: "self/stat", parse: fromStat(cpuTicks)},
		{name: "kata_guest_load", help: "Load average of the guest.", labels: byItem, file: "loadavg", parse: parseLoad},
		{name: "kata_guest_tasks", help: "Tasks of the guest.", labels: byItem, file: "loadavg", parse: parseTasks},
		{name: "kata_guest_cpu_time", help: "CPU time of the guest, in milliseconds.", labels: []string{"cpu", "item"}, file: "stat", parse: parseCPUTime},
		{name: "kata_guest_vm_stat", help: "Virtual memory of the guest.", labels: byItem, file: "vmstat", parse: parseVMStat},
		{name: "kata_guest_netdev_stat", help: "Traffic of the guest's network interfaces.", labels: []string{"interface", "item"}, file: "net/dev", parse: parseNetDev},
		{name: "kata_guest_diskstat", help: "Input and output of the guest's disks.", labels: []string{"disk", "item"}, file: "diskstats", parse: parseDisks},
		{name: "kata_guest_meminfo", help: "Memory of the guest, in bytes.", labels: byItem, file: "meminfo", parse: parseMeminfo},
	}

	bytesFamily = family{
		name: "kata_guest_filesystem_bytes", help: "Room in the guest's file systems, in bytes.", labels: []string{"mount", "device", "item"},
	}
	inodesFamily = family{
		name: "kata_guest_filesystem_inodes", help: "Inodes of the guest's file systems.", labels: []string{"mount", "device", "item"},
	}

	cpuItems  = []string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"}
	diskItems = []string{
		"reads", "merged", "sectors_read", "time_reading", "writes", "writes_merged", "sectors_written", "time_writing", "in_progress",
		"time_in_progress", "weighted_time_in_progress", "discards", "discards_merged", "sectors_discarded", "time_discarding",
		"flushes", "time_flushing",
	}
	netItems = []string{
		"recv_bytes", "recv_packets", "recv_errs", "recv_drop", "recv_fifo", "recv_frame", "recv_compressed", "recv_multicast",
		"sent_bytes", "sent_packets", "sent_errs", "sent_drop", "sent_fifo", "sent_colls", "sent_carrier", "sent_compressed",
	}

	// statusItems are the lines of /proc/self/status that are told.
	statusItems = map[string]string{
		"VmPeak": "vmpeak", "VmSize": "vmsize", "VmLck": "vmlck", "VmPin": "vmpin", "VmHWM": "vmhwm", "VmRSS": "vmrss",
		"RssAnon": "rssanon", "RssFile": "rssfile", "RssShmem": "rssshmem", "VmData": "vmdata", "VmStk": "vmstk", "VmExe": "vmexe",
		"VmLib": "vmlib", "VmPTE": "vmpte", "VmSwap": "vmswap", "HugetlbPages": "hugetlbpages",
		"voluntary_ctxt_switches": "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches": "nonvoluntary_ctxt_switches",
	}

	ioItems = map[string]string{
		"rchar": "rchar", "wchar": "wchar", "syscr": "syscr", "syscw": "syscw", "read_bytes": "read_bytes",
		"write_bytes": "write_bytes", "cancelled_write_bytes": "cancelled_write_bytes",
	}

	// memItems gives the lines of /proc/meminfo the names that kata uses.
	memItems = map[string]string{
		"MemTotal": "mem_total", "MemFree": "mem_free", "MemAvailable": "mem_available", "Buffers": "buffers", "Cached": "cached",
		"SwapCached": "swap_cached", "Active": "active", "Inactive": "inactive", "Active(anon)": "active_anon",
		"Inactive(anon)": "inactive_anon", "Active(file)": "active_file", "Inactive(file)": "inactive_file",
		"Unevictable": "unevictable", "Mlocked": "mlocked", "HighTotal": "high_total", "HighFree": "high_free",
		"LowTotal": "low_total", "LowFree": "low_free", "MmapCopy": "mmap_copy", "SwapTotal": "swap_total", "SwapFree": "swap_free",
		"Dirty": "dirty", "Writeback": "writeback", "AnonPages": "anon_pages", "Mapped": "mapped", "Shmem": "shmem", "Slab": "slab",
		"SReclaimable": "s_reclaimable", "SUnreclaim": "s_unreclaim", "KernelStack": "kernel_stack", "PageTables": "page_tables",
		"Quicklists": "quicklists", "NFS_Unstable": "nfs_unstable", "Bounce": "bounce", "WritebackTmp": "writeback_tmp",
		"CommitLimit": "commit_limit", "Committed_AS": "committed_as", "VmallocTotal": "vmalloc_total", "VmallocUsed": "vmalloc_used",
		"VmallocChunk": "vmalloc_chunk", "HardwareCorrupted": "hardware_corrupted", "AnonHugePages": "anon_hugepages",
		"ShmemHugePages": "shmem_hugepages", "ShmemPmdMapped": "shmem_pmd_mapped", "CmaTotal": "cma_total", "CmaFree": "cma_free",
		"HugePages_Total": "hugepages_total", "HugePages_Free": "hugepages_free", "HugePages_Rsvd": "hugepages_rsvd",
		"HugePages_Surp": "hugepages_surp", "Hugepagesize": "hugepagesize", "Hugetlb": "hugetlb", "DirectMap4k": "direct_map_4k",
		"DirectMap4M": "direct_map_4M", "DirectMap2M": "direct_map_2M", "DirectMap1G": "direct_map_1G", "Percpu": "per_cpu",
		"KReclaimable": "k_reclaimable",
	}
)
