#include "tests/unit/noded/processes_fixture.h"

namespace reelfs::noded {

const char* const kNodedProgram = NODED_PROGRAM;

}  // namespace reelfs::noded
