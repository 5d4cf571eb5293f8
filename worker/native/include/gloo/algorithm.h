// Declarations libtorch's ProcessGroupGloo.hpp needs of Gloo, which libtorch contains but ships no headers of.
// Only pointers to these types are held here.
#pragma once
#include <gloo/context.h>
