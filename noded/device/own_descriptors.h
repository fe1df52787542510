#pragma once

#include <initializer_list>

namespace reelfs::noded {

/// Gives the calling thread a table of descriptors of its own, in which there are these, the standard streams
/// and those of nothing outside the process, with which it wakes the loop. Once for each thread: to be called
/// before each call that may hang in the kernel, and later calls do nothing. Afterwards such a thread may not
/// use other descriptors, and so not write to the log.
///
/// A thread that hangs there outlives its process's death, and with it the table that it uses: in the common
/// one, every port and lock of the process would stay taken. Where the kernel does not allow it (a
/// container's filter) it is said once, and things stay like that.
void use_own_descriptors(std::initializer_list<int> keep);

}  // namespace reelfs::noded
