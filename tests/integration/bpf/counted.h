// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
#ifndef COUNTED_H
#define COUNTED_H

struct counted {
	u64 packets;
	u64 bytes;
};

#endif
