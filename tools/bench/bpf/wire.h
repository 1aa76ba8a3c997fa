// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//
// Offsets of the open-mode STAMP packets (RFC 8762 section 4.2.1 and 4.3.1, with the
// SSID of RFC 8972 section 3), shared by the programs of the bench.

#pragma once

#define bpf_htons(x) __builtin_bswap16(x)
#define bpf_htonl(x) __builtin_bswap32(x)
#define bpf_cpu_to_be64(x) __builtin_bswap64(x)

#define UDP_LENGTH 8
#define UDP_CHECK_AT 6

#define OPEN_LENGTH 44
#define SEQUENCE_AT 0
#define T3_AT 4
#define SSID_AT 14
#define T2_AT 16
#define SENDER_SEQUENCE_AT 24
#define T1_AT 28
