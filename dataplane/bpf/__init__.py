"""BPF programs: compiled with bcc, loaded, run and attached through bpf(2)."""
